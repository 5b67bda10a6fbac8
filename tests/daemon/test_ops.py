"""The files of `marketd ops`, judged by the programs that will read them where those are here."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.engine.remote import open_engine
from actors.engine.words import EngineAway, EngineUnfit, Kept
from actors.exchanges.exchange import load_exchanges
from daemon.collecting import exchange_defaults
from daemon.config import load
from daemon.dump import dump
from daemon.ops import FILES, text_of
from daemon.settings import Config
from tests.actors.engine import servers

ROOT = Path(__file__).parents[2]
SYSTEMD = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")


@pytest.mark.parametrize("name", FILES)
def test_each_comes_out_of_the_program(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "daemon", "ops", name], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == text_of(name)
    assert "@MARKETD@" not in done.stdout


def test_a_name_that_is_none_is_told_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "daemon", "ops", "upstart"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert all(name in done.stderr for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_variable_is_a_key(name: str) -> None:
    for variable in re.findall(r"MARKETD_\w+__\w+", text_of(name)):
        section, key = variable.removeprefix("MARKETD_").lower().split("__")
        assert key in getattr(Config(exchanges={}), section).__struct_fields__


def test_the_unit_says_what_is_promised() -> None:
    lines = text_of("systemd").splitlines()
    for line in [
        *("Type=notify-reload", "WatchdogSec=20", "Restart=on-failure", "TimeoutStopSec=15", "LimitNOFILE=65536"),
        *("MemoryMax=2G", "DynamicUser=yes", "StateDirectory=marketd", "ConfigurationDirectory=marketd"),
        *("ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "NoNewPrivileges=yes"),
        *("CapabilityBoundingSet=", "MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service", "UMask=0077"),
    ]:
        assert line in lines
    assert "RestartPreventExitStatus=78 2" in lines
    assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX" in lines


def analysed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert SYSTEMD is not None
    unit = folder / "marketd.service"
    version = subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True).stdout.split()[1]
    text = text_of("systemd")
    if int(version) < 253:  # as the comment in the file says
        older = "Type=notify\nExecReload=kill -HUP $MAINPID"
        text = re.sub("^Type=notify-reload$", older, text, flags=re.MULTILINE)
    # What systemd sees is a program that is there, wherever this one is installed.
    unit.write_text(re.sub("^ExecStart=[^ ]+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    return subprocess.run([SYSTEMD, *arguments, str(unit)], capture_output=True, text=True, timeout=50)


@needs_systemd
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    done = analysed(tmp_path, "verify", "--man=no")
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "marketd" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
def test_the_unit_is_exposed_little(tmp_path: Path) -> None:
    done = analysed(tmp_path, "security", "--offline=true", "--threshold=20", "--no-pager")
    assert done.returncode == 0, done.stdout[-2000:]


def test_compose() -> None:
    tree = yaml.safe_load(text_of("compose"))
    service = tree["services"]["marketd"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["nofile"] >= 65536
    assert "healthcheck" in service
    assert "./config.toml:/etc/marketd/config.toml:ro" in service["volumes"]
    assert {name for name, other in tree["services"].items() if other.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }
    used = {config["source"] for other in tree["services"].values() for config in other.get("configs", ())}
    assert used == set(tree["configs"])
    for content in filter(None, (config.get("content") for config in tree["configs"].values())):
        assert isinstance(yaml.safe_load(content), dict)


def interpolated(text: str) -> str:
    """As compose does it, with the password in its .env."""
    text = re.sub(r"\$\{ENGINE_PASSWORD:\?[^}]+\}", "hunter2", text)
    return re.sub(r"\$\{\w+:-\}", "", text)


@pytest.fixture
def cluster() -> Any:
    return yaml.safe_load(interpolated(text_of("compose-cluster")))


def test_compose_cluster_is_a_pair_an_edge_and_a_server(cluster: Any, tmp_path: Path) -> None:
    nodes = {name: service for name, service in cluster["services"].items() if name != "valkey"}
    config = tmp_path / "config.toml"
    config.write_text((ROOT / "config.toml").read_text())
    archives, roles = set(), {}
    for name, service in nodes.items():
        loaded = load(config, service["environment"], defaults=exchange_defaults(load_exchanges()))
        assert not (set(service["environment"]) - {"PORT"}) & set(os.environ)
        assert loaded.engine.url == "redis://:hunter2@valkey:6379/0"
        assert (loaded.engine.name, loaded.engine.address) == (name, f"http://{name}:8000")
        assert (loaded.server.host, loaded.server.port) == ("0.0.0.0", 8000)
        assert "hunter2" not in dump(loaded)
        roles[name] = loaded.engine.role
        if loaded.engine.role != "edge":
            archives.add(loaded.archive.path)
            assert loaded.engine.budget_share == 0.5
            (network,) = cluster["networks"]["default"]["ipam"]["config"]
            assert network["subnet"] in loaded.limits.exempt  # what edges ask for their clients
        assert service["depends_on"]["valkey"]["condition"] == "service_healthy"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert "healthcheck" in service
    assert roles == {"left": "both", "right": "both", "edge": "edge"}
    assert len(archives) == 2
    ports = [port for service in nodes.values() for port in service["ports"]]
    assert len(set(ports)) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in cluster["services"]["valkey"]
    mounted = {volume.split(":")[0] for service in cluster["services"].values() for volume in service["volumes"]}
    assert mounted - {"./config.toml"} == set(cluster["volumes"])


async def test_the_cluster_s_server_is_one_that_nodes_can_use(cluster: Any, tmp_path: Path) -> None:
    """The settings that it is given, on a real one: it wants the password, keeps what it has and forgets nothing."""
    settings = tmp_path / "valkey.conf"
    settings.write_text(cluster["configs"]["valkey"]["content"])
    with servers.running("valkey", "--include", str(settings)) as server:
        url = server.url.replace("redis://", "redis://:hunter2@")
        async with open_engine(url, "p", Kept()) as engine:
            assert await engine.check(4) == 4
            assert await engine.check(8) == 4
        async with open_engine(server.url, "p", Kept()) as engine:
            with pytest.raises((EngineAway, EngineUnfit)):
                await engine.check(4)


def test_kubernetes() -> None:
    parts: dict[str, Any] = {part["kind"]: part for part in yaml.safe_load_all(text_of("kubernetes"))}
    deployment = parts["Deployment"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    pod = deployment["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 15
    (container,) = pod["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    labels = deployment["selector"]["matchLabels"]
    assert labels.items() <= deployment["template"]["metadata"]["labels"].items()
    assert parts["Service"]["spec"]["selector"] == labels
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}


def test_the_wheel_has_them_and_is_the_same_each_time(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (ROOT / "pyproject.toml").exists():
        pytest.skip("this is not the project's folder")
    wheels = []
    for name in ("one", "two"):
        source = tmp_path / name
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.db*", "build", "dist"))
        build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", build, str(tmp_path)],
            cwd=source,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            capture_output=True,
            text=True,
            timeout=50,
        )
        if "No module named 'hatchling'" in done.stderr:
            pytest.skip("hatchling is not installed")
        assert done.returncode == 0, done.stderr
        wheels.append((tmp_path / done.stdout.split()[-1]).read_bytes())
    assert wheels[0] == wheels[1]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {f"daemon/ops/{file}" for file in FILES.values()} <= set(archive.namelist())
