"""The classical engine undoes blur, fills holes and continues edges without learned weights.

Pure functions on uint8 RGB arrays (H, W, 3); the same input and seed give the same pixels, whatever the number of
threads. Needs NumPy, SciPy and OpenCV (the `local` extra).
"""

from flux_tasks.local.engines.classical.blur import Deblurred, deblur
from flux_tasks.local.engines.classical.inpaint import inpaint
from flux_tasks.local.engines.classical.outpaint import outpaint, outpaint_fast

NAME = "classical"
VERSION = "1"  # part of the job key: raise it whenever results change

__all__ = ["NAME", "VERSION", "Deblurred", "deblur", "inpaint", "outpaint", "outpaint_fast"]
