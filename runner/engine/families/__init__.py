"""The model families: code that all pipelines of a family share, one file for each."""

from collections.abc import Mapping

from runner.engine.families.base import Family
from runner.engine.families.flux1 import FLUX1
from runner.engine.families.flux2 import FLUX2
from runner.engine.families.flux3 import FLUX3
from runner.engine.families.zimage import ZIMAGE

FAMILIES: Mapping[str, Family] = {family.name: family for family in (FLUX1, FLUX2, FLUX3, ZIMAGE)}
