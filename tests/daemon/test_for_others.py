"""What SEVERAL.md tells other programs to do at the server, done: it reads what clients are told."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from actors.exchanges.binance import simulator as binance
from actors.simulation.market import Clock, Market
from daemon.settings import Engine
from tests.actors.engine.servers import Server, running
from tests.daemon.fixtures import START, TWO, configuration, eventually, fast, serving

CHAPTER = (Path(__file__).parents[2] / "daemon" / "SEVERAL.md").read_text().partition("## For other programs")[2]
URL = "redis://:secret@10.0.0.5:6379/0"
BOTH = 5  # trades more that both read


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", CHAPTER, re.DOTALL)
    assert found is not None
    return found[1]


def json_in(text: str) -> dict[str, object]:
    """The first event in what redis-cli shows, where quotes are escaped."""
    found = re.search(r"\{\\\"exchange.*?\}", text)
    assert found is not None, text
    return msgspec.json.decode(found[0].replace('\\"', '"'), type=dict[str, object])


async def said_by_cli(command: str, server: Server) -> str:
    _, *arguments = shlex.split(command)
    done = await trio.run_process(["redis-cli", "-p", str(server.port), *arguments], capture_stdout=True)
    return done.stdout.decode()


async def test_the_examples_read_what_a_client_is_told(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    with running("valkey", "--appendonly", "yes") as server:
        assert URL in block("python")
        example.write_text(block("python").replace(URL, server.url))
        async with trio.open_nursery() as nursery:
            market = Market(assets=TWO, clock=Clock(START, rate=10.0))
            sim = await nursery.start(partial(binance.serve, market))
            engine = Engine(url=server.url, name="a", lanes=2)
            async with serving(configuration(sim, ["BTCUSDT"], engine=engine), fast()) as served:
                async with served.stream("/ws") as stream:
                    await stream.say({"op": "subscribe", "topics": ["binance:BTCUSDT:trades"]})
                    await eventually(lambda: stream.of("trade"), within=60)
                    process = await trio.lowlevel.open_process(
                        [sys.executable, str(example)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                    )
                    text = ""
                    try:
                        assert process.stdout is not None
                        with trio.fail_after(60):
                            wanted = stream.of("trade")[0]["seq"] + BOTH  # what was before it is remembered, too
                            while text.count("\n") < wanted:
                                text += (await process.stdout.receive_some()).decode()
                    finally:
                        process.kill()
                        await process.wait()
                    rows = [line.split() for line in text.splitlines()[:wanted]]
                    await eventually(lambda: stream.of("trade")[-1]["seq"] >= int(rows[-1][2]), within=60)
                assert [row[:3] for row in rows] == [
                    ["binance:BTCUSDT:trades", "trade", str(seq)] for seq in range(1, wanted + 1)
                ]
                prices = {str(trade["seq"]): trade["price"] for trade in stream.of("trade")}
                same = [row for row in rows if row[2] in prices]
                assert len(same) == BOTH + 1
                assert all(float(row[3]) == prices[row[2]] for row in same)
                if shutil.which("redis-cli") is not None:
                    await compare_with_cli(server)
            nursery.cancel_scope.cancel()


async def compare_with_cli(server: Server) -> None:
    """What is shown there has the shape of what redis-cli says here."""
    (scan, shown_key), (read, shown) = re.findall(r"^\$ (.*)\n((?:[^$].*\n)+)", block("console"), re.MULTILINE)
    assert await said_by_cli(scan, server) == shown_key
    said = await said_by_cli(read, server)
    for text in (shown, said):
        lines = [re.sub(r"\d+", "0", line) for line in text.splitlines()]
        assert lines[:3] == [re.sub(r"\d+", "0", line) for line in shown.splitlines()[:3]]
        # An array of a few entries, or on a busy machine of more than fifteen.
        begun = r'            2\) "(\\x9\w|\\xdc.{2,8}?)\\x94\\xb6binance:BTCUSDT:trades\\xa5trade'
        assert re.match(begun, text.splitlines()[3]), text
    assert json_in(said).keys() == json_in(shown).keys()


@pytest.mark.parametrize("language", ["python", "console"])
def test_the_chapter_has_one_of_each(language: str) -> None:
    assert CHAPTER.count(f"```{language}\n") == 1
