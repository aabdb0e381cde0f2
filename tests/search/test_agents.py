"""The server of the Model Context Protocol, asked by the SDK's own client."""

import argparse
import json
import random
import re
import sys
import threading
import time
import tomllib
from pathlib import Path

import anyio
import httpx2
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters

from mose.search import Index, find_similar, unit_at
from mose.search.__main__ import main
from mose.search.agents import workspace as workspaces
from mose.search.agents.answers import UnitAnswer, UnitSummary, compact_json, cut_hits, cut_unit, token_count
from mose.search.agents.server import make_server
from mose.search.agents.workspace import Workspace
from mose.search.commands import mcp as command
from mose.utils.locations import package_folder

README = (package_folder() / "README.md").read_text(encoding="utf-8")
CLOCKS = '''\
import time


class Clock:
    """Tell the time."""

    def now(self):
        """Return seconds since the epoch."""
        return time.time()

    def wait(self, seconds):
        """Sleep for a while."""
        time.sleep(seconds)
'''
NUMBERS = "".join(f"def add_{name}(a, b):\n    return a + b\n\n\n" for name in ("one", "two", "three", "four"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served") / "project"
    (root / "lib").mkdir(parents=True)
    (root / "clocks.py").write_text(CLOCKS)
    (root / "lib" / "numbers.py").write_text(NUMBERS)
    (root / ".env").write_text("PASSWORD=hunter2\n")
    return root


@pytest.fixture(scope="module")
def index(folder, model_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "served"
    return Index.build(folder, str(model_folder), None, path, 0, progress=False)


@pytest.fixture(scope="module")
def server(index):
    return make_server(Workspace([index.location.name]))


def ask(server, *calls, mode="auto", progress=None):
    """Return the answers to tool calls, one after another over one connection."""

    async def run():
        async with Client(server, mode=mode) as client:
            return [
                await client.call_tool(name, arguments, progress_callback=progress) for name, arguments in calls
            ]

    return anyio.run(run)


def answer(server, name, **arguments):
    (result,) = ask(server, (name, arguments))
    assert not result.is_error, result.content[0].text
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


def error(server, name, **arguments):
    (result,) = ask(server, (name, arguments))
    assert result.is_error
    return result.content[0].text


def test_tools_say_what_they_do_and_take(server):
    async def run():
        async with Client(server) as client:
            return client.instructions, (await client.list_tools()).tools

    instructions, tools = anyio.run(run)
    assert "what it does" in instructions
    reading = {tool.name: tool.annotations.read_only_hint for tool in tools}
    assert reading == {
        "search_code": True, "find_similar": True, "show_unit": True, "list_folders": True, "index_folder": False
    }  # fmt: skip
    for tool in tools:
        assert tool.title and tool.description and tool.annotations.destructive_hint is False
        assert tool.output_schema["type"] == "object"
        assert all(schema.get("description") for schema in tool.input_schema["properties"].values())


def test_a_search_answers_what_the_index_finds_and_is_short(server, index):
    found = answer(server, "search_code", query="add two numbers", top_k=4)
    hits = index.search("add two numbers", 4)
    assert [hit["name"] for hit in found["hits"]] == [hit.qualified_name for hit in hits]
    assert [hit["score"] for hit in found["hits"]] == [round(hit.score, 3) for hit in hits]
    for shown, hit in zip(found["hits"], hits, strict=True):
        assert (shown["path"], shown["lines"]) == (hit.path, f"{hit.start_line}-{hit.end_line}")
        assert shown["code"] == "\n".join(hit.source.split("\n")[:3])

    found = answer(server, "search_code", query="add", lines=0, kinds=["class"], paths=["/*.py"])
    assert found["hits"] == [
        {
            "path": "clocks.py",
            "lines": "4-13",
            "kind": "class",
            "name": "Clock",
            "score": found["hits"][0]["score"],
        }
    ]
    per_file = answer(server, "search_code", query="add", one_per_file=True, languages=["python"])
    assert sorted(hit["path"] for hit in per_file["hits"]) == ["clocks.py", "lib/numbers.py"]
    nothing = answer(server, "search_code", query="add", paths=["none/"])
    assert nothing == {"hits": [], "note": "Nothing fits well."}


def test_a_unit_is_shown_with_what_is_around_it(server, folder):
    lines = (folder / "clocks.py").read_text().splitlines()
    shown = answer(server, "show_unit", path="clocks.py", line=9)
    assert shown["unit"]["name"] == "Clock.now" and shown["first_line"] == 7
    assert [line.strip() for line in shown["code"].splitlines()] == [line.strip() for line in lines[6:9]]
    assert [unit["name"] for unit in shown["inside_of"]] == ["Clock"]
    assert [unit["name"] for unit in shown["after"]] == ["Clock.wait"]

    numbers = str(folder / "lib" / "numbers.py")  # as editors name files
    shown = answer(server, "show_unit", path=numbers, line=6, neighbours=1)
    around = [shown[key][0]["name"] for key in ("before", "after")]
    assert (shown["unit"]["name"], *around) == ("add_two", "add_one", "add_three")
    assert "before" not in answer(server, "show_unit", path="./lib/numbers.py", neighbours=0)
    assert "lines 1-2, 5-6, 9-10" in error(server, "show_unit", path=numbers, line=4)


def test_similar_code_is_what_the_index_finds(server, index, folder):
    found = answer(server, "find_similar", path="lib/numbers.py", line=1, top_k=3, lines=0)
    hits = find_similar(index, unit_at(index, f"{folder}/lib/numbers.py:1"), 3)
    assert [(hit["name"], hit["score"]) for hit in found["hits"]] == [
        (hit.qualified_name, round(hit.score, 3)) for hit in hits
    ]
    assert "add_one" not in {hit["name"] for hit in found["hits"]}

    code = "def add_two(a, b):\n    return a + b"
    by_code = answer(server, "find_similar", code=code, language="python", top_k=50)
    assert by_code["hits"][0]["name"] == "add_two" and by_code["hits"][0]["score"] > 0.9
    assert len(by_code["hits"]) == len(index)
    assert "either path" in error(server, "find_similar", path="clocks.py", code="x")
    assert "either path" in error(server, "find_similar")


def test_nothing_outside_of_the_indexed_trees_can_be_read(folder, index, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path / "cache"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text("def secret():\n    return 'hunter2'\n")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(outside, target_is_directory=True)
    (allowed / "linked.py").symlink_to(outside / "secret.py")
    (allowed / "mine.py").write_text("def mine():\n    return 1\n")
    server = make_server(Workspace([index.location.name], [allowed], model=index.meta.model, exit_layer=0))

    paths = (
        ".env",
        str(folder / ".env"),
        "../outside/secret.py",
        str(outside / "secret.py"),
        "/etc/passwd",
        "lib",
    )
    for path in paths:
        for tool in ("show_unit", "find_similar"):
            assert "no indexed file has this path" in error(server, tool, path=path)
    for name in (str(outside), "link", "../outside", "/", "~", str(tmp_path)):
        text = error(server, "index_folder", folder=name)
        assert f"this server may index {allowed}" in text and f"--allow {name}" in text
    # A folder that does not exist is refused like one that does.
    assert "this server may index" in error(server, "index_folder", folder="/no/such/folder")
    assert "no such folder" in error(server, "index_folder", folder="missing")

    assert answer(server, "index_folder")["units"] == 1
    found = answer(server, "search_code", query="secret", top_k=50, lines=50, max_tokens=9000)
    assert "hunter2" not in json.dumps(found) and "mine" in json.dumps(found)


def test_indexing_reports_progress_and_later_edits_are_found(tmp_path, model_folder, monkeypatch):
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(workspaces, "MAX_AGE", 0)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "clocks.py").write_text(CLOCKS)
    workspace = Workspace([], [tree], model=str(model_folder), exit_layer=0)
    server, steps = make_server(workspace), []

    assert f"it may index {tree}" in error(server, "search_code", query="clock")
    assert answer(server, "list_folders") == {
        "indexed": [],
        "may_index": [str(tree)],
        "note": f"Nothing is indexed yet. Call index_folder first; it may index {tree}.",
    }

    async def note(done, total, message):
        steps.append((done, message))

    (result,) = ask(server, ("index_folder", {"folder": "."}), progress=note)
    built = result.structured_content
    assert (built["folder"], built["files"], built["units"], built["embedded"]) == (str(tree), 1, 3, 3)
    values = [done for done, _ in steps]
    assert values == sorted(set(values)) and values[-1] == 2
    assert steps[-1][1] == "Embedding: 3 of 3" and "Reading: 1 of 1" in dict(steps).values()

    (tree / "new.py").write_text("def brand_new_function():\n    return 1\n")
    assert answer(server, "search_code", query="brand_new_function")["hits"][0]["path"] == "new.py"
    (tree / "new.py").unlink()
    found = answer(server, "search_code", query="brand_new_function", top_k=50)
    assert "new.py" not in {hit["path"] for hit in found["hits"]}
    assert answer(server, "list_folders")["indexed"][0]["units"] == 3

    # Another server of the same folder has the index from the start.
    again = make_server(Workspace([], [tree], model=str(model_folder), exit_layer=0))
    assert answer(again, "search_code", query="clock")["hits"]
    assert answer(again, "index_folder").get("embedded", 0) == 0


def test_several_indexes_are_searched_as_one(tmp_path, index, folder, model_folder):
    other = tmp_path / "other"
    other.mkdir()
    (other / "strings.py").write_text("def shout(text):\n    return text.upper()\n")
    Index.build(other, str(model_folder), None, tmp_path / "second", 0, progress=False)
    inner = folder / "lib"  # whose files the first index has, too
    Index.build(inner, str(model_folder), None, tmp_path / "third", 0, progress=False)
    names = [index.location.name, str(tmp_path / "second"), str(tmp_path / "third")]
    server = make_server(Workspace(names))

    found = answer(server, "search_code", query="return", top_k=50, lines=0, max_tokens=9000)["hits"]
    scores = [hit["score"] for hit in found]
    assert scores == sorted(scores, reverse=True)
    places = [(Path(hit["folder"], hit["path"]), hit["lines"]) for hit in found]
    assert len(places) == len(set(places)) == len(index) + 1
    only = answer(server, "search_code", query="return", top_k=50, folder=str(other))["hits"]
    assert [(hit["name"], hit["folder"]) for hit in only] == [("shout", str(other))]
    assert [hit["name"] for hit in answer(server, "find_similar", code="x", folder="other")["hits"]] == ["shout"]
    assert f"Indexed are: {folder}, {other}, {inner}" in error(server, "search_code", query="x", folder="/none")


def test_errors_name_the_remedy_and_bugs_tell_nothing(server, index, monkeypatch):
    assert "kinds must be among function" in error(server, "search_code", query="x", kinds=["cat"])
    assert "greater than or equal to 1" in error(server, "search_code", query="x", top_k=0)
    assert "Describe what the code does" in error(server, "search_code", query="  ")
    missing = make_server(Workspace([index.location.name + "-none"]))
    for _ in range(2):
        assert "python -m mose.search index DIR" in error(missing, "search_code", query="x")

    monkeypatch.setattr(Workspace, "search", lambda *_, **__: {}["hunter2"])
    assert error(server, "search_code", query="x") == "Error executing tool search_code"


def test_clients_of_the_older_handshake_and_many_at_once(server):
    (result,) = ask(server, ("search_code", {"query": "sleep"}), mode="legacy")
    assert result.structured_content["hits"][0]["name"].startswith("Clock")

    async def run():
        results = []
        async with Client(server) as client, anyio.create_task_group() as group:
            for number in range(20):

                async def call(name=("one", "two", "three", "four")[number % 4]):
                    result = await client.call_tool("search_code", {"query": f"add_{name}"})
                    results.append((f"add_{name}", result.structured_content["hits"][0]["name"]))

                group.start_soon(call)
        return results

    results = anyio.run(run)
    assert len(results) == 20 and all(wanted == first for wanted, first in results)


def test_arguments_of_any_kind_are_answered_or_explained(index, tmp_path):
    """No combination of arguments makes a tool fail without saying why, or exceed its budget."""
    generator = random.Random(0)
    words = [
        "",
        " ",
        "add",
        "clocks.py",
        "../x",
        "/etc/passwd",
        "\0",
        "é" * 50,
        "a" * 3000,
        "*",
        "!",
        "[a-",
        "~",
        "\n",
    ]
    kinds = [None, True, -1, 10**30, 0.5, [], {}, [None], {"a": 1}]
    fitting = {
        "integer": lambda: generator.randrange(1, 300),
        "string": lambda: generator.choice(words),
        "array": lambda: generator.choices([*words, "python", "class"], k=2),
        "boolean": lambda: True,
    }
    server = make_server(Workspace([index.location.name], [tmp_path]))

    def value(schema):
        types = [part["type"] for part in schema.get("anyOf", [schema]) if part["type"] in fitting]
        return fitting[generator.choice(types)]() if generator.random() < 0.8 else generator.choice(kinds)

    async def run():
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            for _ in range(80):
                tool = generator.choice(tools)
                schemas = tool.input_schema["properties"].items()
                arguments = {name: value(schema) for name, schema in schemas if generator.random() < 0.5}
                result = await client.call_tool(tool.name, arguments)
                yield tool.name, arguments, result.is_error, result.content[0].text

    async def collect():
        return [answer async for answer in run()]

    answers = anyio.run(collect)
    for name, arguments, is_error, text in answers:
        assert text != f"Error executing tool {name}", arguments
        assert is_error or token_count(text) <= arguments.get("max_tokens", 3000), arguments
    assert 10 < sum(is_error for _, _, is_error, _ in answers) < 70


def test_a_cancelled_indexing_stops(tmp_path, monkeypatch):
    ended = threading.Event()

    def endless(*_, progress, **__):
        try:
            for number in range(600):
                progress("Reading", number, 600)
                time.sleep(0.05)
        finally:
            ended.set()

    monkeypatch.setenv("MOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Index, "build", endless)
    server = make_server(Workspace([], [tmp_path]))

    async def run():
        async with Client(server) as client:
            with anyio.move_on_after(0.3) as scope:
                await client.call_tool("index_folder", {})
            return scope.cancelled_caught

    assert anyio.run(run) and ended.wait(5)


#: With characters that JSON writes as several.
TEXTS = st.text('ab"\\é\t\x01', max_size=60)


def summaries():
    code = st.lists(TEXTS, max_size=6).map("\n".join)
    return st.builds(UnitSummary, path=TEXTS, lines=st.just("1-2"), kind=st.just("class"), name=TEXTS, code=code)


@settings(max_examples=30)
@given(st.lists(summaries(), max_size=8), st.integers(200, 800), TEXTS)
def test_hits_keep_to_the_budget(hits, budget, note):
    cut = cut_hits(hits, budget, note)
    assert len(cut.hits) + cut.left_out == len(hits)
    assert all(
        shown.code in ("", hit.code) and shown.name == hit.name
        for shown, hit in zip(cut.hits, hits, strict=False)
    )
    assert token_count(compact_json(cut)) <= budget or len(cut.hits) == 1
    everything = cut_hits(hits, 10**6, note)
    assert everything.hits == hits
    if token_count(compact_json(everything)) + 25 <= budget:
        assert cut == everything


@settings(max_examples=40)
@given(
    st.lists(summaries(), max_size=4),
    st.lists(TEXTS, min_size=1, max_size=40),
    st.integers(200, 900),
)
def test_a_unit_keeps_to_the_budget(around, lines, budget):
    unit = UnitSummary(path="a.py", lines=f"1-{len(lines)}", kind="function", name="f")
    whole = UnitAnswer(unit=unit, code="\n".join(lines), first_line=1, before=around, after=around[:2])
    cut = cut_unit(whole, budget)
    shown = cut.code.split("\n")
    assert shown == lines[: len(shown)] and len(shown) + cut.lines_left_out == len(lines)
    assert token_count(compact_json(cut)) <= budget or len(shown) == 1
    assert cut.after == around[:2][: len(cut.after)] and cut.before == around[len(around) - len(cut.before) :]
    if cut.lines_left_out:
        assert not cut.before and not cut.after


@pytest.mark.slow
def test_over_stdio_nothing_but_the_protocol_reaches_stdout(index, capfd):
    command = ["-m", "mose.search", "mcp", "--index", index.location.name]
    parameters = StdioServerParameters(command=sys.executable, args=command)
    first, second = ask(parameters, ("search_code", {"query": "sleep"}), ("list_folders", {}))
    assert first.structured_content["hits"][0]["name"].startswith("Clock")
    assert second.structured_content["indexed"][0]["folder"] == index.trees[0].root
    assert capfd.readouterr().out == ""


def test_over_http_for_this_machine_alone(server):
    config = uvicorn.Config(server.streamable_http_app(host="127.0.0.1"), port=0, log_level="error")
    listener = uvicorn.Server(config)
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    try:
        while not listener.started:
            time.sleep(0.01)
        port = listener.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/mcp"
        (result,) = ask(url, ("search_code", {"query": "sleep"}))
        assert result.structured_content["hits"][0]["name"].startswith("Clock")
        # A web page that has its own name point here is refused.
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert httpx2.post(url, json=body, headers={"Host": "evil.example"}).status_code in (403, 421)
        assert httpx2.post(url, json=body, headers={"Origin": "http://evil.example"}).status_code in (403, 421)
    finally:
        listener.should_exit = True
        thread.join(10)


def test_bad_arguments_are_reported_before_the_imports(tmp_path, capsys):
    assert main(["mcp", "--allow", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["mcp", "--index", str(tmp_path / "none")]) == 1
    assert "python -m mose.search index DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["mcp", "--port", "99999"])
    assert stop.value.code == 2 and "must be in [1, 65535], got '99999'" in capsys.readouterr().err
    assert main(["mcp", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_the_documented_configurations_start_the_server(tmp_path, monkeypatch):
    """Every block names a command line that the server takes, with the folder that the client puts in."""
    text = (package_folder() / "docs" / "agents.md").read_text(encoding="utf-8")
    blocks = [json.loads(body) for body in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    blocks += [tomllib.loads(body) for body in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    names = ["mcpServers", "mcpServers", "servers", "mcp_servers"]
    assert [next(iter(block)) for block in blocks] == names

    # The README has the same in one line each.
    rows = re.findall(r"^\| .* \| `\..*mcp.*` \| `(.*)` \|$|^\| .*config.toml` \| `(.*)` \|$", README, re.M)
    short = [tomllib.loads(line) if line.startswith("mcp_") else json.loads(line) for line in map("".join, rows)]
    assert [next(iter(block)) for block in short] == names
    for block, same in zip(blocks, short, strict=True):
        (entry,), (again,) = (next(iter(one.values())).values() for one in (block, same))
        assert entry == again

    started = []
    monkeypatch.setattr(
        "mose.search.agents.server.MCPServer.run", lambda server, transport, **_: started.append(transport)
    )
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        ((name, entry),) = next(iter(block.values())).items()
        program, *arguments = [word.replace("${workspaceFolder}", str(tmp_path)) for word in entry["args"]]
        assert (name, entry["command"], program) == ("mose", "mose", "search")
        assert main(arguments) == 0

        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        allowed = parser.parse_args(arguments[1:]).allow
        assert allowed in (None, [tmp_path])
    assert started == ["stdio"] * 4
