"""A machine joins with nothing but the one file that the dashboard gives."""
import hashlib

from hive_processes import ON_CPU, Program


def test_a_machine_joins_from_an_empty_folder_with_peer_pyz(here):
    hive = here.coordinator("--rounds", 2)
    status, headers, content = hive.ask("/peer.pyz")
    assert (status, headers["Content-Type"]) == (200, "application/zip")
    assert hashlib.sha256(content).hexdigest() == hive.state()["join"]["peer_sha256"]
    folder = here.folder / "empty"
    folder.mkdir()
    (folder / "peer.pyz").write_bytes(content)
    peer = Program(folder, "one-file", "peer.pyz", "--server", hive.address, "--name", "one-file",
                   *ON_CPU)
    here.programs.append(peer)
    assert (peer.end(), hive.end()) == (0, 0)
    assert "all 2 rounds are done" in peer.said()
    assert hive.counted(1) == hive.counted(2) == ["one-file"]
    assert [path.name for path in folder.iterdir() if path.name != "machines"] == ["peer.pyz"]
