"""Images in and out, and the names of the classes they show."""

from advjax.data.imagenet import imagenet_class_of as imagenet_class_of
from advjax.data.imagenet import imagenet_classes as imagenet_classes
from advjax.data.imagenet import imagenet_synsets as imagenet_synsets
from advjax.data.images import decode_image as decode_image
from advjax.data.images import list_images as list_images
from advjax.data.images import load_images as load_images
from advjax.data.images import read_image as read_image
from advjax.data.images import write_png as write_png
from advjax.data.preprocessing import Preprocessing as Preprocessing
from advjax.data.preprocessing import prepare as prepare
