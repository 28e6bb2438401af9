"""What docs/security.md names exists, and README leads to it."""

from __future__ import annotations

import re
from pathlib import Path

import flux_tasks
import pipelines
from flux_tasks import settings
from pipelines.language.reading.includes import MAX_DEPTH, MAX_STEPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_readme_leads_to_the_page() -> None:
    assert "(docs/security.md)" in (ROOT / "README.md").read_text()


def test_every_command_option_and_name_on_the_page_exists() -> None:
    code = set(re.findall(r"`([^`]+)`", PAGE))
    sources = "\n".join(p.read_text() for name in ("pipelines", "flux_tasks") for p in (ROOT / name).rglob("*.py"))
    known = {
        "@operation": hasattr(pipelines, "operation"),
        "flux_tasks.use(key=…)": hasattr(flux_tasks, "use"),
        "bfl.ai": settings.is_bfl("https://api.bfl.ai"),
        "local": 'endpoint in (*ENDPOINTS, "local")' in sources or '(*ENDPOINTS, "local"' in sources,
        "SystemExit": True,  # Python's
        "os._exit": True,
        **{name: name in settings.ENDPOINTS for name in ("bfl", "eu", "us")},
        **{name: f"def {name}(" in sources for name in ("plan", "validate", "retry")},
        **{name: f"    {name}:" in sources for name in ("budget", "env")},
        "--no-code": "no_code: NoCode" in sources,
        "--endpoint": "endpoint: Annotated[str | None" in sources,
        "--prefect embedded": 'prefect: Literal["auto", "embedded", "off"] | None = None' in sources,
        "BFL_API_KEY": '"BFL_API_KEY"' in sources,
        "transport": "    transport: Literal[" in sources,
        **{name: f'"{name}"' in sources for name in ("anon", "AWS_ENDPOINT_URL")},
        "on_end": "    on_end: Annotated[" in sources,
        **{name: f'= "{name}"' in sources for name in ("FLUX_ON_END_SECRET", "OTEL_EXPORTER_PROMETHEUS_HOST")},
        "FLUX_WEBHOOK_SECRET": '"FLUX_WEBHOOK_SECRET": (' in sources,
        "block://": 'r"block://' in sources,
        **{name: f'"{name[:-1]}"' in sources for name in ("BFL_…", "FLUX_…")},
    }
    assert {name: known.get(name) for name in code} == dict.fromkeys(code, True)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    assert f"{MAX_DEPTH} levels and {MAX_STEPS:,} steps" in PAGE
