"""A contestant from the field, in an environment of its own; this project never depends on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "bench-daft"
PACKAGES = ("daft", "httpx", "pillow")


def install() -> tuple[Path | None, str]:
    """Install Daft if it is not there yet; return its Python (None if that fails), and its version or the reason."""
    python = ENVIRONMENT / "bin" / "python"
    version = [str(python), "-c", "import importlib.metadata as m; print(m.version('daft'))"]
    try:
        if not python.exists() or subprocess.run(version, capture_output=True).returncode:
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, capture_output=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
            subprocess.run(pip, check=True, capture_output=True, timeout=300)
        return python, subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"Daft cannot be installed here ({type(error).__name__})"
