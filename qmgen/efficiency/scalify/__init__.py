"""Scale propagation: arrays that carry their scale through a whole function.

Start at `scaled_array` for what is computed with, and at `interpreter` for how.
"""

from qmgen.efficiency.scalify.interpreter import scalify as scalify
from qmgen.efficiency.scalify.scaled_array import ScaledArray as ScaledArray
from qmgen.efficiency.scalify.scaled_array import as_scaled as as_scaled
from qmgen.efficiency.scalify.scaled_array import unscale as unscale
