"""FileStorage and EncryptedStorage."""

from __future__ import annotations

import os
import pickle
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from alf import Client, Token
from alf._backends import make_backend
from alf._token_storage import TokenStorage
from alf.storages import EncryptedStorage, FileStorage
from tests.servers import Api, TokenServer, TurnedClock
from tests.storage_doubles import (
    Adding,
    Expiring,
    Locking,
    Plain,
    entry,
    only,
    take,
    warnings_of,
)

MakeClient = Callable[..., Client]

# -- files -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "alf"


def test_files_keep_the_token_for_the_next_start(
    make_client: MakeClient, tokens: TokenServer, api: Api, folder: Path
) -> None:
    for _ in range(3):
        client = make_client(token_storage=FileStorage(folder))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    tokens.alive.clear()
    for _ in range(2):
        client = make_client(token_storage=FileStorage(str(folder)))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
def test_files_are_for_their_owner_only(make_client: MakeClient, folder: Path) -> None:
    before = os.umask(0)
    try:
        assert make_client(token_storage=FileStorage(folder)).ensure_token()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path, folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "mine")
    (file,) = folder.iterdir()
    planted = tmp_path / "planted"
    planted.write_text("theirs")
    file.unlink()
    file.symlink_to(planted)
    assert storage.get("key") is None
    storage.set("key", "mine")
    assert storage.get("key") == "mine"
    assert planted.read_text() == "theirs"


@pytest.mark.skipif(os.name != "posix", reason="pipes among files are POSIX's")
def test_a_pipe_that_somebody_put_there_blocks_nobody(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    storage = FileStorage(folder)
    storage.set("key", "mine")
    (file,) = folder.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert not storage.get("key")


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, folder: Path, mode: int
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    storage = FileStorage(folder)
    lock = make_backend(storage).lock
    assert lock is not None
    assert lock.take("key", "mine", 1)
    lock.release("key", "mine")
    storage.set("entry", "mine")
    (file,) = folder.glob("*.lock")
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(PermissionError, match="is not a file"):
        lock.take("key", "mine", 1)
    folder.chmod(mode)
    before = sorted(folder.iterdir())
    calls: list[Callable[[], object]] = [
        lambda: storage.set("key", "mine"),
        lambda: storage.delete("entry"),
        lambda: lock.take("key", "mine", 1),
    ]
    for call in calls:
        with pytest.raises(PermissionError, match="must belong to this user"):
            call()
    assert storage.get("entry") is None
    client = make_client(token_storage=storage)
    for number in (1, 2):
        assert client.renew_token().access_token == f"token-{number}"
    assert victim.read_text() == "precious"
    assert sorted(folder.iterdir()) == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux' /proc")
def test_a_folder_in_the_place_of_an_entry_leaks_nothing(folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "mine")
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    before = open_files()
    for _ in range(20):
        assert storage.get("key") is None
        with pytest.raises(OSError, match=r"[Dd]irectory"):
            storage.set("key", "mine")
    assert open_files() == before
    assert list(folder.iterdir()) == [file]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux' /proc")
def test_a_lock_whose_holder_cannot_be_noted_is_released(folder: Path) -> None:
    lock = make_backend(FileStorage(folder)).lock
    assert lock is not None
    assert lock.take("name", "one", 1)
    lock.release("name", "one")
    before = open_files()
    with pytest.raises(UnicodeEncodeError):
        lock.take("name", "\udc80", 1)
    assert lock.take("name", "two", 1)
    lock.release("name", "two")
    assert open_files() == before


def test_a_cache_folder_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_options: object) -> Path:
        return Path("~/.cache/alf")

    monkeypatch.setattr("platformdirs.user_cache_path", unknown)
    with pytest.raises(ValueError, match="give FileStorage one"):
        FileStorage()


def test_a_relative_folder_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = FileStorage("tokens")
    storage.set("key", "mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert storage.get("key") == "mine"
    storage.delete("key")
    FileStorage("none").delete("key")
    assert not (tmp_path / "elsewhere" / "none").exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_a_folder_of_another_user_is_not_used(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)
    with pytest.raises(PermissionError, match="must belong to this user"):
        FileStorage(folder).set("key", "mine")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_a_file_of_another_user_counts_as_absent(folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "theirs")
    (file,) = folder.iterdir()
    os.chown(file, 65534, 65534)
    assert storage.get("key") is None
    storage.set("key", "mine")
    assert storage.get("key") == "mine"


def test_files_are_in_the_users_cache_folder(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    assert make_client(token_storage=FileStorage()).ensure_token()
    assert list(tmp_path.rglob("alf/*.json")) or list(tmp_path.rglob("alf/*/*.json"))


def test_keys_of_files_differ_as_they_do_elsewhere(folder: Path) -> None:
    storage = FileStorage(folder)
    keys = ["a/b", "a:b", "../a", "A:B", "x" * 240]
    for key in keys:
        storage.set(key, key)
    assert [storage.get(key) for key in keys] == keys
    assert len(list(folder.iterdir())) == len(keys)
    assert storage.get("none") is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(folder: Path) -> None:
    storage = FileStorage(folder)
    storage.set("key", "before")
    with pytest.raises(UnicodeEncodeError):
        storage.set("key", "after \udc80")
    assert storage.get("key") == "before"
    assert len(list(folder.iterdir())) == 1


def test_a_truncated_file_is_replaced(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    assert make_client(token_storage=FileStorage(folder)).ensure_token()
    (file,) = folder.glob("*.json")
    file.write_bytes(file.read_bytes()[:20])
    for _ in range(2):
        token = make_client(token_storage=FileStorage(folder)).ensure_token()
        assert token.access_token == "token-2"
    assert len(tokens.requests) == 2


def test_a_folder_that_cannot_be_made(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    client = make_client(token_storage=FileStorage(tmp_path / "file" / "alf"))
    assert client.ensure_token().access_token == "token-1"
    assert len(warnings_of(caplog)) == 1


def test_one_process_at_a_time_holds_the_lock_of_a_file(folder: Path) -> None:
    first, second = (make_backend(FileStorage(folder)).lock for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.take("name", "one", 1)
    assert not second.take("name", "two", 1)
    assert second.holder("name") == "one"
    second.release("name", "one")  # it is not the second one's to release
    assert not second.take("name", "two", 1)
    assert second.take("other", "two", 1)
    first.release("name", "one")
    assert second.take("name", "two", 1)
    second.release("name", "two")
    second.release("other", "two")
    assert second.holder("name") is None


# -- encryption --------------------------------------------------------------------------------

KEYS = [Fernet.generate_key() for _ in range(3)]


@pytest.mark.parametrize("make", [dict, Expiring, Locking, Adding])
def test_an_encrypted_storage_is_shared_and_shows_nothing(
    make_client: MakeClient, tokens: TokenServer, api: Api, make: type[Any]
) -> None:
    storage = make()
    for key in (KEYS[0], KEYS[0].decode(), [KEYS[1], KEYS[0]]):
        client = make_client(token_storage=EncryptedStorage(storage, key))
        assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 1
    assert "token-1" not in str(only(storage))
    assert getattr(storage, "ttls", [3600]) == [3600]
    assert len(getattr(storage, "given_back", [1])) == 1


def test_an_encrypted_storage_passes_the_lock_on(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = Adding()
    take(storage)
    client = make_client(
        token_storage=EncryptedStorage(storage, KEYS[0]), token_storage_key="mine", clock=clock
    )
    assert client.ensure_token()
    assert clock.slept


def test_keys_are_rotated(make_client: MakeClient, tokens: TokenServer) -> None:
    storage = Plain()
    for keys, expected in [
        (KEYS[0], "token-1"),
        ([KEYS[1], KEYS[0]], "token-1"),
        (KEYS[1], "token-2"),  # it was not stored anew meanwhile
        ([KEYS[2], KEYS[1]], "token-2"),
    ]:
        client = make_client(token_storage=EncryptedStorage(storage, keys))
        assert client.ensure_token().access_token == expected
    client.renew_token()
    client = make_client(token_storage=EncryptedStorage(storage, KEYS[2]))
    assert client.ensure_token().access_token == "token-3"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda secret: secret[:-8],
        lambda secret: secret.swapcase(),
        lambda secret: b"\xff\xfe",
        lambda secret: entry("in the clear").replace(" ", ""),
        lambda secret: Fernet(KEYS[1]).encrypt(entry("of-another-key").encode()),
        lambda secret: Fernet(KEYS[0]).encrypt(b"\xff\xff"),
        lambda secret: Fernet(KEYS[0]).encrypt(entry("without-its-key").encode()),
        lambda secret: 17,
    ],
)
def test_a_value_that_does_not_verify_is_absent(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[str], Any],
) -> None:
    storage = Locking()
    encrypted = EncryptedStorage(storage, KEYS[0])
    assert make_client(token_storage=encrypted).ensure_token()
    (key,) = storage.entries
    storage.entries[key] = spoil(storage.entries[key])
    assert make_client(token_storage=encrypted).ensure_token().access_token == "token-2"
    assert make_client(token_storage=encrypted).ensure_token().access_token == "token-2"
    (warning,) = warnings_of(caplog)
    assert "does not verify" in warning


def test_entries_cannot_be_swapped(make_client: MakeClient) -> None:
    storage = Plain()
    encrypted = EncryptedStorage(storage, KEYS[0])
    for key in ("mine", "theirs"):
        assert make_client(token_storage=encrypted, token_storage_key=key).ensure_token()
    storage.entries["mine"] = storage.entries["theirs"]
    client = make_client(token_storage=encrypted, token_storage_key="mine")
    assert client.ensure_token().access_token == "token-3"


@pytest.mark.parametrize("key", ["", b"short", "top-secret" * 10, [], [KEYS[0], "no"], 17, None])
def test_a_key_that_cannot_encrypt(key: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes") as failure:
        EncryptedStorage({}, key)
    assert "top-secret" not in str(failure.value)


class GetsAndSets:
    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.entries.get(key)

    def __setitem__(self, key: str, value: str) -> None:
        self.entries[key] = value


@pytest.mark.parametrize(
    ("inner", "is_removed"),
    [(dict, True), (Adding, True), (Plain, False), (GetsAndSets, False)],
)
def test_a_token_is_removed_where_the_storage_can_do_that(
    inner: type[Any], is_removed: bool
) -> None:
    storage = TokenStorage(EncryptedStorage(inner(), KEYS[0]), "mine")
    token = Token("a-token")
    storage.save(token)
    storage.remove(Token("another"))
    assert storage.load() == token
    storage.remove(token)
    assert storage.load() == (None if is_removed else token)


def test_a_token_is_removed_from_its_file(folder: Path) -> None:
    storage = TokenStorage(FileStorage(folder), "mine")
    storage.save(Token("a-token"))
    storage.remove(Token("a-token"))
    assert storage.load() is None
    assert not list(folder.glob("*.json"))
    FileStorage(folder).delete("mine")


def test_an_encrypted_storage_around_none() -> None:
    with pytest.raises(TypeError, match="token_storage"):
        EncryptedStorage(object(), KEYS[0])


def test_storages_of_alf_travel_with_a_pickled_client(
    make_client: MakeClient, tokens: TokenServer, folder: Path
) -> None:
    client = make_client(token_storage=EncryptedStorage(FileStorage(folder), KEYS[0]))
    assert client.ensure_token()
    with pickle.loads(pickle.dumps(client)) as clone:
        assert clone.ensure_token().access_token == "token-1"
    assert len(tokens.requests) == 1


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("filelock", FileStorage, "file"),
        ("platformdirs", FileStorage, "file"),
        ("cryptography.fernet", lambda: EncryptedStorage({}, KEYS[0]), "crypto"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[], object], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"alf\[{extra}\]"):
        make()
