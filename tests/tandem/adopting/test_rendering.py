from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.decode import decode
from common.config.loader import _Walk
from common.config.models import Idle, Model, ModelHealth
from common.config.sections import Stop
from common.config.units import Duration, Size
from common.errors import BadRequest
from tandem.adopting.proposal import Proposal
from tandem.adopting.rendering import plain, with_models

HEAD = "version: 1\nhost: h\nsupervisor: {}\n"
GIB = 2**30


def model(name: str = "new", **fields: Any) -> Model:
    return Model(**({"name": name, "engine": "openai", "vram": Size(GIB), "url": "http://127.0.0.1:1"} | fields))


def added(text: str, *models: Model) -> str:
    return with_models(text, [Proposal(each, "src.yaml", 7) for each in models or (model(),)])


def read(text: str) -> list[Model]:
    startup, problems = decode(_Walk("f").document(text))
    assert problems == []
    return startup.models


ENTRY = "- name: new\n{0}  engine: openai\n{0}  vram: 1GiB\n{0}  url: http://127.0.0.1:1\n"
BLOCK = "  # adopted from src.yaml:7\n  " + ENTRY.format("  ")
FLUSH = "# adopted from src.yaml:7\n" + ENTRY.format("")
BLOCK_URL = "models:\n  - name: old\n    engine: openai\n    vram: 0\n    url: |-\n      http://127.0.0.1:2\n"
OLD = "name: old, engine: openai, vram: 1GiB, url: 'http://127.0.0.1:2'"
JSON = '{"name": "new", "engine": "openai", "vram": "1GiB", "url": "http://127.0.0.1:1"}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (HEAD + "# end\n", HEAD + "# end\n\nmodels:\n" + BLOCK),
        (HEAD.rstrip(), HEAD + "\nmodels:\n" + BLOCK),
        ("---\n" + HEAD + "...\n", "---\n" + HEAD + "\nmodels:\n" + BLOCK + "...\n"),
        (HEAD + "models: []\n# end\n", HEAD + "models:\n" + BLOCK + "# end\n"),
        (HEAD + "models: [ ]  # none yet\nagents: []\n", HEAD + "models:  # none yet\n" + BLOCK + "agents: []\n"),
        (HEAD + "models:\nagents: []\n", HEAD + "models:\n" + BLOCK + "agents: []\n"),
        (HEAD + "models: ~\nagents: []\n", HEAD + "models:\n" + BLOCK + "agents: []\n"),
        (
            HEAD + f"models:\n  # mine\n  - {{{OLD}}}  # kept\n    # slots: 3\n\n  # of agents\nagents: []\n",
            HEAD + f"models:\n  # mine\n  - {{{OLD}}}  # kept\n    # slots: 3\n" + BLOCK + "\n  # of agents\nagents: []\n",
        ),
        (
            HEAD + "models:\n- name: old\n  engine: openai\n  vram: 1GiB\n  url: http://127.0.0.1:2",
            HEAD + "models:\n- name: old\n  engine: openai\n  vram: 1GiB\n  url: http://127.0.0.1:2\n" + FLUSH,
        ),
        (
            HEAD + BLOCK_URL + "\nagents: []\n",
            HEAD + BLOCK_URL + BLOCK
            + "\nagents: []\n",
        ),
        (HEAD + f"models: [{{{OLD}}}]  # one\n", HEAD + f"models: [{{{OLD}}}, {JSON}]  # one\n"),
        (
            '{"version": 1, "host": "h", "supervisor": {}}\n',
            f'{{"version": 1, "host": "h", "supervisor": {{}}, "models": [{JSON}]}}\n',
        ),
        (
            '{"version": 1, "host": "h", "supervisor": {}, "models": []}',
            f'{{"version": 1, "host": "h", "supervisor": {{}}, "models": [{JSON}]}}',
        ),
    ],
)  # fmt: skip
def test_models_come_after_those_there_are_and_all_else_stays(before: str, after: str) -> None:
    changed = added(before)
    assert changed == after
    assert read(changed)[-1] == model()


def test_a_list_in_a_file_of_braces_is_added_to() -> None:
    text = f'{{"version": 1, "host": "h", "supervisor": {{}}, "models": [{{{OLD}}}]}}'
    assert [each.name for each in read(added(text))] == ["old", "new"]


def test_line_ends_of_windows_stay() -> None:
    changed = added((HEAD + "agents: []\n").replace("\n", "\r\n"))
    assert changed.count("\r\n") == changed.count("\n") > 8
    assert read(changed) == [model()]


def test_without_models_nothing_changes() -> None:
    assert with_models("any: text", []) == "any: text"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n", "no mapping"),
        ("x: &x [1]\nmodels: *x\n", "an alias"),
        ("models: {a: 1}\n", "models is no list"),
        ("models: text\n", "models is no list"),
    ],
)
def test_what_nothing_can_be_put_into_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        added(text)


def test_an_entry_says_only_what_is_not_its_default() -> None:
    entry = model(
        command=["a", "{port}", "off", "1"],
        env={"A": "b"},
        url="",
        idle=Idle(after_s=Duration(1.5), then="sleep"),
        health=ModelHealth(path="/up"),
        stop=Stop(term_s=Duration(30)),
        vram=Size(10 * GIB + 2**20),
        sleep=False,
    )
    assert plain(entry) == {
        "name": "new",
        "engine": "openai",
        "vram": "10241MiB",
        "command": ["a", "{port}", "off", "1"],
        "env": {"A": "b"},
        "health": {"path": "/up"},
        "sleep": False,
        "idle": {"after_s": "1500ms", "then": "sleep"},
        "stop": {"term_s": "30s"},
    }
    assert read(added(HEAD, entry)) == [entry]
    assert plain(model(vram=Size(2**30 + 1024)))["vram"] == "1048577KiB"
    assert plain(model(vram=Size(7)))["vram"] == "7"
    assert plain(model(vram=Size(0)))["vram"] == "0"


def test_where_it_comes_from_cannot_break_out_of_its_comment() -> None:
    changed = with_models(HEAD, [Proposal(model(), "a\nhost: evil\x1b", 0)])
    assert "# adopted from a?host: evil?\n" in changed


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=5),
    st.dictionaries(st.from_regex("[A-Z]{1,8}", fullmatch=True), TEXTS, max_size=3),
)
def test_what_is_written_is_read_again_as_it_was(words: list[str], env: dict[str, str]) -> None:
    entry = model(command=words, env=env)
    for text in (HEAD, HEAD + "models: []\n", HEAD + f"models: [{{{OLD}}}]\n"):
        assert read(added(text, entry))[-1] == entry


def test_the_repositorys_own_files_can_be_added_to() -> None:
    for name in ("startup_main.yaml", "startup_pc2.yaml"):
        text = (Path(__file__).parents[3] / "config" / name).read_text()
        changed = added(text)
        kept, new = text.replace("models: []", "models:").splitlines(), changed.splitlines()
        assert [line for line in new if line in kept] == kept
        assert read(changed) == [model()]
