"""Use a Client's token in gRPC, with call credentials."""

from __future__ import annotations

from typing import Any

import grpc

import alf


class TokenPlugin(grpc.AuthMetadataPlugin):
    """Adds the token to each call; gRPC calls the plugin in a separate thread."""

    def __init__(self, client: alf.Client) -> None:
        self._client = client

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        try:
            token = self._client.ensure_token()
        except Exception as error:
            callback((), error)
        else:
            callback((("authorization", token.authorization),), None)


def secure_channel(client: alf.Client, target: str, channel: grpc.ChannelCredentials) -> Any:
    """Make a channel whose calls carry the token."""
    calls = grpc.metadata_call_credentials(TokenPlugin(client))
    return grpc.secure_channel(target, grpc.composite_channel_credentials(channel, calls))


def call(client: alf.Client, method: Any, request: bytes) -> Any:
    """Make a call; if the server refuses the token, make it again with another one."""
    token = client.ensure_token()
    try:
        return method(request)
    except grpc.RpcError as error:
        is_refused = error.code() is grpc.StatusCode.UNAUTHENTICATED
        if not is_refused or client.manager.replace(token) is None:
            raise
        return method(request)
