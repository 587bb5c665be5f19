"""The runbook has a section for everything that a person may see."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from otpd.agents.services.errors.records import KINDS
from otpd.supervisor.healthkeys import ALERTS
from otpd.supervisor.views import State

DOCS = Path(__file__).parents[2] / "docs"


def test_the_runbook_has_a_section_for_each_state_each_kind_of_error_and_each_alert_and_no_other() -> None:
    parts = re.split(r"^## (.+)$", (DOCS / "runbook.md").read_text(), flags=re.MULTILINE)
    texts = zip(parts[1::2], parts[2::2], strict=True)
    sections = {title: re.findall(r"^### (.+)$", text, re.MULTILINE) for title, text in texts}
    assert sections["States of `otpd tree`"] == list(get_args(State))
    assert sorted(sections["Kinds of `otpd errors`"]) == sorted(KINDS)
    assert sections["Alerts"] == list(ALERTS)


def test_the_page_of_the_services_names_each_kind_of_error() -> None:
    page = (DOCS / "services.md").read_text()
    assert [kind for kind in KINDS if f"| `{kind}` |" not in page] == []
