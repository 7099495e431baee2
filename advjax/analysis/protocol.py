"""The numbers of the paper's analysis."""

import dataclasses
from typing import Literal

from advjax.errors import AdvjaxError, UnknownName
from advjax.metrics.manifold import COMPONENTS


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The numbers of the paper's analysis; the defaults are those of section 4.

    Attributes:
        neighbours: The K of the intersection of neighbours and of the rank r_K.
        near: The number of a guide's neighbours that count as near, by cosine distance.
        reference: The number of them, drawn at random, that the PPCA is fitted to; the others are
            N_c.
        far: The neighbours N_f are those beyond the first number, up to the second.
        components: The components of the PPCA. The paper does not give their number; 10 is our
            choice.
        within: The images among which near and far neighbours are searched: all of the bank, or
            those of the guide's class alone.
        seed: The seed of the draw of the reference neighbours.
    """

    neighbours: int = 3
    near: int = 20
    reference: int = 15
    far: tuple[int, int] = (40, 50)
    components: int = COMPONENTS
    within: Literal["bank", "class"] = "bank"
    seed: int = 0

    def __post_init__(self):
        if self.neighbours < 1:
            raise AdvjaxError(f"neighbours is {self.neighbours}; give 1 or more")
        if not 0 < self.reference <= self.near <= self.far[0] < self.far[1]:
            raise AdvjaxError(
                f"reference, near and far are {self.reference}, {self.near}, {tuple(self.far)}; "
                "each must be the next's most"
            )
        if not 1 <= self.components <= self.reference - 2:
            raise AdvjaxError(
                f"components is {self.components}, but {self.reference} reference points allow 1 "
                f"to {self.reference - 2}; give fewer components or more points"
            )
        if self.within not in ("bank", "class"):
            raise UnknownName("within", self.within, ("bank", "class"))
        if self.seed < 0:
            raise AdvjaxError(f"seed is {self.seed}; give a whole number, 0 or more")
