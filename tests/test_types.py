"""What the types say twice is the same in both places; ``make types`` checks tests/typed.py."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import pytest

from alf import BearerTokenAuth, Client
from alf.client import ClientOptions
from alf.client_auth import AuthMethod
from alf.storages import EncryptedStorage, FileStorage, Storage


def test_the_options_are_the_parameters_of_a_client() -> None:
    parameters = dict(inspect.signature(Client.__init__).parameters)
    for name in ("self", "token_endpoint", "issuer"):
        del parameters[name]
    # Each annotation is the text that the source has.
    options = {name: kind.__forward_arg__ for name, kind in ClientOptions.__annotations__.items()}
    assert options == {name: parameter.annotation for name, parameter in parameters.items()}


@pytest.mark.parametrize("method", get_args(AuthMethod))
def test_each_method_of_client_authentication_has_its_name(method: str) -> None:
    needs_secret = method.startswith("client_secret")
    Client(
        token_endpoint="https://id.example.com/token",
        client_id="client-id",
        client_secret="secret" if needs_secret else None,
        client_auth=method,
        token_cert="client.pem" if method == "tls_client_auth" else None,
    ).close()


def test_an_error_names_the_same_methods() -> None:
    with pytest.raises(ValueError, match=", ".join(get_args(AuthMethod))):
        Client(token_endpoint="https://a.example", client_id="b", client_auth="post")


@pytest.mark.parametrize("storage", [FileStorage, EncryptedStorage])
def test_a_storage_of_alf_has_the_methods_of_the_protocol(storage: type) -> None:
    for name in ("get", "set"):
        assert callable(getattr(Storage, name))
        assert callable(getattr(storage, name))


@pytest.mark.parametrize("annotated", [Client.__init__, ClientOptions, BearerTokenAuth.__init__])
def test_annotations_can_be_evaluated(annotated: Any) -> None:
    """As frameworks for dependency injection do."""
    assert get_type_hints(annotated)
