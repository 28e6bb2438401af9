"""``tools``: the catalogue as a table and as JSON."""

from __future__ import annotations

import json

from command_line import Cli

from flux_tasks import catalog


def test_tools_lists_every_tool_with_its_price(cli: Cli) -> None:
    done = cli("tools")
    assert done.returncode == 0
    for tool in catalog.TOOLS.values():
        assert tool.name in done.stdout
    assert "unknown" in done.stdout
    listed = json.loads(cli("tools", "--json").stdout)
    assert len(listed) == len(catalog.TOOLS)
    one = cli("tools", "erase")
    assert "dilate_pixels" in one.stdout
    assert cli("tools", "erse").returncode == 2


def test_a_piped_table_has_a_line_for_each_tool_whatever_the_terminal_is(cli: Cli) -> None:
    cli.environment["COLUMNS"] = "40"
    lines = cli("tools").stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : len(catalog.TOOLS) + 1]] == list(catalog.TOOLS)
    assert not any(line.endswith(" ") for line in lines)
