"""Continue a picture beyond its edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flux_tasks.local.engines.classical.inpaint import fill
from flux_tasks.local.engines.classical.patchmatch import Mask, Picture
