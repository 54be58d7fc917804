"""TLS, client certificates and bearer tokens, with certificates made for the test."""

import datetime
import os
import ssl

import grpc
import pytest
import trustme
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.server.harness import PATIENCE

OK, UNAVAILABLE, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED


class Authority:
    """A certificate authority, and the files of the certificates that it issues."""

    def __init__(self, folder):
        self.folder, self.ca = folder, trustme.CA()
        self.root = self.ca.cert_pem.bytes()

    def files(self, name="server", **issue):
        """Writes a certificate and key for localhost; returns the server's settings for them."""
        leaf = self.ca.issue_cert("localhost", "127.0.0.1", **issue)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return {"tls_cert": str(cert), "tls_key": str(key)}

    def root_file(self):
        path = self.folder / "root.pem"
        path.write_bytes(self.root)
        return str(path)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def code(server, root, key=None, chain=None, metadata=()):
    """The status of a call over TLS."""
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    with grpc.secure_channel(server.address, credentials, options=[("grpc.enable_retries", 0)]) as channel:
        try:
            stub = bart_pb2_grpc.SummarizationServiceStub(channel)
            stub.Summarize(pb.SummarizeRequest(text="a"), metadata=metadata, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code()
        return OK


def test_tls_serves_those_who_trust_its_authority_and_nobody_else(start, authority, tmp_path):
    server = start(**authority.files())
    assert code(server, authority.root) is OK
    assert code(server, trustme.CA().cert_pem.bytes()) is UNAVAILABLE
    with server.channel() as plain:
        stub = bart_pb2_grpc.SummarizationServiceStub(plain)
        with pytest.raises(grpc.RpcError):
            stub.Summarize(pb.SummarizeRequest(text="a"), timeout=PATIENCE)


def test_an_expired_certificate_is_not_believed(start, authority):
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    server = start(**authority.files(not_after=yesterday))
    assert code(server, authority.root) is UNAVAILABLE


def test_mutual_tls_needs_a_client_certificate_of_the_right_authority(start, authority, tmp_path):
    server = start(**authority.files(), tls_client_ca=authority.root_file())
    client = authority.ca.issue_cert("client.example")
    key, chain = client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    assert code(server, authority.root, key, chain) is OK
    assert code(server, authority.root) is UNAVAILABLE
    stranger = trustme.CA().issue_cert("client.example")
    assert code(server, authority.root, stranger.private_key_pem.bytes(), stranger.cert_chain_pems[0].bytes()) is (
        UNAVAILABLE
    )


def test_rotated_certificates_are_used_without_a_restart(start, authority):
    settings = authority.files()
    server = start(**settings)
    first = presented(server)
    authority.files()
    later = os.stat(settings["tls_cert"]).st_mtime + 1
    os.utime(settings["tls_cert"], (later, later))
    assert presented(server) != first
    assert code(server, authority.root) is OK


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_while_new_certificates_are_unusable_the_old_ones_stay_and_the_log_says_so(start, authority, damage, caplog):
    settings = authority.files()
    server = start(**settings)
    first = presented(server)
    path = authority.folder / "server.pem"
    path.unlink() if damage == "missing" else path.write_bytes(b"garbage")
    assert presented(server) == first
    assert code(server, authority.root) is OK
    assert "the changed certificates cannot be read, the old ones are used" in caplog.messages
    authority.files()
    later = os.stat(settings["tls_cert"]).st_mtime + 1
    os.utime(settings["tls_cert"], (later, later))
    assert presented(server) != first, "usable ones are read later"


def presented(server):
    """The certificate that the server presents, as PEM."""
    return ssl.get_server_certificate(("127.0.0.1", server.process.port))


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_a_file_that_is_no_certificate_is_refused_at_the_start(authority, content):
    from bart_server.settings import Settings, SettingsError
    from bart_server.transport import credentials as security

    settings = authority.files()
    (authority.folder / "server.pem").write_bytes(content)
    with pytest.raises(SettingsError, match="--tls-cert names a file that is not PEM"):
        security.credentials(Settings(**settings))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer first", OK),
        ("bearer second", OK),
        ("Bearer third", UNAUTHENTICATED),
        ("Bearer first second", UNAUTHENTICATED),
        ("Basic first", UNAUTHENTICATED),
        ("Bearer ", UNAUTHENTICATED),
        ("", UNAUTHENTICATED),
    ],
)
def test_bearer_tokens(start, authority, tmp_path, header, expected):
    (tmp_path / "tokens").write_text("# accepted\nfirst\n\nsecond\n")
    server = start(**authority.files(), token_file=str(tmp_path / "tokens"))
    assert code(server, authority.root, metadata=(("authorization", header),)) is expected


def test_probes_need_no_token_and_reflection_does(start, tmp_path):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    (tmp_path / "tokens").write_text("secret")
    with start(token_file=str(tmp_path / "tokens")).channel() as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == 1
        with pytest.raises(grpc.RpcError) as error:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert error.value.code() is UNAUTHENTICATED


def test_a_token_file_without_a_token_is_refused_at_the_start(tmp_path):
    from bart_server.settings import Settings, SettingsError
    from bart_server.transport import credentials as security

    (tmp_path / "tokens").write_text("# none\n")
    with pytest.raises(SettingsError, match="without a token"):
        security.read_tokens(Settings(token_file=str(tmp_path / "tokens")))


def test_changed_tokens_are_used_without_a_restart_and_unusable_ones_are_not(start, tmp_path, monkeypatch):
    monkeypatch.setattr("bart_server.transport.authentication.LOOK_AGAIN", 0.0)
    path = tmp_path / "tokens"
    path.write_text("first")
    server = start(token_file=str(path))

    def accepted(token):
        with server.channel() as channel:
            stub = bart_pb2_grpc.SummarizationServiceStub(channel)
            try:
                stub.Summarize(
                    pb.SummarizeRequest(text="a"), metadata=(("authorization", f"Bearer {token}"),), timeout=PATIENCE
                )
            except grpc.RpcError as error:
                assert error.code() is UNAUTHENTICATED
                return False
            return True

    def change(content, later):
        path.write_text(content)
        os.utime(path, ns=(later, later))

    now = os.stat(path).st_mtime_ns
    assert accepted("first") and not accepted("second")
    change("second", now + 1)
    assert accepted("second") and not accepted("first")
    change("# none", now + 2)
    assert accepted("second")
    path.unlink()
    assert accepted("second")
