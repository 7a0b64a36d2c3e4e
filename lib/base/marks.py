"""How a field is typed on the command line, in tyro's words. A GPU machine that nobody has set up may lack
tyro: there they say nothing, and trees of values are made as ever; only flags cannot be read."""

import importlib.util
from typing import TYPE_CHECKING, Annotated, TypeVar

if TYPE_CHECKING or importlib.util.find_spec("tyro"):
    from tyro.conf import FlagCreatePairsOff as FlagCreatePairsOff
    from tyro.conf import OmitArgPrefixes as OmitArgPrefixes
    from tyro.conf import Positional as Positional
    from tyro.conf import Suppress as Suppress
    from tyro.conf import arg as arg
else:
    Kind = TypeVar("Kind")
    FlagCreatePairsOff = OmitArgPrefixes = Positional = Suppress = Annotated[Kind, "unread"]

    def arg(**words: object) -> str:
        """Nothing, where nobody reads it."""
        return "unread"
