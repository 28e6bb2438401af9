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


def test_a_tool_is_shown_with_the_advice_of_its_documents(cli: Cli) -> None:
    for tool in catalog.TOOLS.values():
        shown = cli("tools", tool.name).stdout
        assert [tip.text for tip in tool.tips if tip.text not in shown] == []
        assert bool(tool.tips) is ("tips, or what to do when" in shown)
        break
    erase = json.loads(cli("tools", "erase", "--json").stdout)
    assert erase["charged_when_refused"] == "no"
    assert {"about": "an edge or a halo is left", "text": "raise dilate_pixels", "source": "SEED-1"} in erase["tips"]
    kontext = json.loads(cli("tools", "kontext", "--json").stdout)
    assert kontext["prompt_limit"] == {"most": 10_000, "unit": "character"}
