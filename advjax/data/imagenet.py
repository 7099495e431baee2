"""The 1000 classes of ILSVRC2012, in the order of the networks' outputs.

The class index is the rank of the WordNet id. Ids and names come from the tables of timm (Ross
Wightman, Apache-2.0: `imagenet_synsets.txt`, and the first lemma of each synset in
`imagenet_synset_to_lemma.txt`), which took them from WordNet 3.0, copyright Princeton University,
whose licence permits any use. The two cranes and the two maillots of the list got distinct names.
"""

import functools
import importlib.resources
import os
import re
from pathlib import PurePath


@functools.cache
def _table() -> tuple[tuple[str, str], ...]:
    text = importlib.resources.files("advjax.data").joinpath("imagenet_classes.txt").read_text()
    return tuple((line[:9], line[10:]) for line in text.splitlines())


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 short English names, all different.

    Example:
        >>> imagenet_classes()[967], imagenet_classes()[0]
        ('espresso', 'tench')
    """
    return tuple(name for _, name in _table())


def imagenet_synsets() -> tuple[str, ...]:
    """Return the 1000 WordNet ids, sorted.

    Example:
        >>> imagenet_synsets()[967]
        'n07920052'
    """
    return tuple(synset for synset, _ in _table())


def imagenet_class_of(path: str | os.PathLike[str]) -> int | None:
    """Find the class of an ImageNet file by the WordNet id that its name or a folder begins with.

    Args:
        path: Such as "train/n07920052/n07920052_31.JPEG"; the name counts first, then the nearest
            folder. The file is not opened.

    Returns:
        The class, 0 to 999, or None where no part begins with the id of a class.

    Example:
        >>> imagenet_class_of("val/n07920052_espresso/7.jpg")
        967
    """
    synsets = imagenet_synsets()
    for part in reversed(PurePath(path).parts):
        begins = re.match(r"n\d{8}(?!\d)", part)
        if begins and begins[0] in synsets:
            return synsets.index(begins[0])
    return None
