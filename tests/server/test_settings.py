"""Settings come from flags and environment variables, and wrong values are refused."""

import dataclasses

import pytest
from bart_server.settings import Settings, SettingsError, parse


def test_no_flags_serve_the_embedded_checkpoint_on_localhost_50051():
    config = parse([], {})
    assert (config.host, config.port, config.platform) == ("localhost", 50051, "cpu")
    assert config.models() == {"debian-tiny": "embedded"}


def test_a_flag_wins_over_the_environment_and_that_over_the_default():
    environment = {"BART_SERVER_PORT": "1", "BART_SERVER_CHUNK": "3", "BART_SERVER_TRACE": "yes"}
    config = parse(["--port", "2"], environment)
    assert (config.port, config.chunk, config.trace) == (2, 3, True)


def test_models_repeat_and_lists_are_comma_separated():
    config = parse(["--model", "a=x", "--model", "b=y=z", "--beams", "1,2,5", "--sources", ""], {})
    assert config.models() == {"a": "x", "b": "y=z"}
    assert (config.beams, config.sources) == ((1, 2, 5), ())
    assert parse([], {"BART_SERVER_MODEL": "a=x,b=y"}).models() == {"a": "x", "b": "y"}


def test_an_adapter_belongs_to_a_model():
    config = parse(["--model", "a=x", "--model", "b=y", "--adapter", "b=z=1"], {})
    assert (config.adapter_of("x"), config.adapter_of("y")) == (None, "z=1")
    assert parse([], {"BART_SERVER_ADAPTER": "debian-tiny=here"}).adapter_of("embedded") == "here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port is 70000, it has to be between 0 and 65535"),
        (["--port", "x"], "--port is 'x', it has to be a whole number"),
        (["--model", "x"], "--model is 'x', it has to be NAME=PATH"),
        (["--model", "a=x", "--model", "a=y"], "different names"),
        (["--model", "a=x", "--adapter", "b=y"], "--adapter is 'b=y', it has to be NAME=PATH with the name of a model"),
        (["--model", "a=x", "--adapter", "a"], "--adapter is 'a', it has to be NAME=PATH"),
        (["--model", "a=x", "--adapter", "a=y", "--adapter", "a=z"], "at most one for each model"),
        (["--model", "a=x", "--model", "b=x", "--adapter", "a=y"], "of a model that shares x with no other"),
        (["--platform", "gpu"], "--platform is 'gpu', it has to be cpu, tpu or cuda"),
        (["--dtype", "float16"], "--dtype is 'float16', it has to be float32, bfloat16 or int8"),
        (["--beams", "4,1"], "--beams is (4, 1), it has to be positive and ascending"),
        (["--beams", "1,x"], "--beams is '1,x', it has to be whole numbers, separated by commas"),
        (["--rows", ""], "at least one each"),
        (["--max-requests", "0"], "--max-requests is 0, it has to be positive"),
        (["--grace", "-1"], "--grace is -1.0, it has to be between 0 and 1,000,000"),
        (["--grace", "2e6"], "--grace is 2000000.0, it has to be between 0 and 1,000,000"),
        (["--grace", "long"], "--grace is 'long', it has to be a number"),
        (["--grace", "nan"], "--grace is nan"),
        (["--tls-cert", "/nonexistent"], "--tls-key"),
        (["--token-file", "/nonexistent"], "--token-file is '/nonexistent', it has to be a file"),
        (["--metrics", "here"], "HOST:PORT"),
        (["--metrics", "0.0.0.0:9464"], "--metrics is '0.0.0.0:9464', it has to be a loopback address"),
        (["--max-requests", "1000000000"], "--max-requests is 1000000000, it has to be positive, at most 100,000"),
        (["--max-message-bytes", "10000000000"], "--max-message-bytes is 10000000000, it has to be positive, at most"),
        (["--max-cost", "3000000000"], "--max-cost is 3000000000, it has to be positive, at most 2,147,483,647"),
        (["--max-connection-age", "0.00001"], "--max-connection-age is 1e-05, it has to be 0 or at least 1"),
        (["--workers", "5000"], "--workers is 5000, it has to be positive, at most 64"),
        (["--device-timeout", "0"], "--device-timeout is 0.0, it has to be more than 0"),
        (["--host", "0.0.0.0"], "a loopback address without --tls-cert; --insecure allows others"),
        (["--host", "::"], "--insecure"),
        (["--host", "example.org"], "--insecure"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, message):
    with pytest.raises(SettingsError) as error:
        parse(arguments, {})
    assert message in str(error.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_loopback_needs_no_tls(host):
    assert parse(["--host", host], {}).host == host


def test_insecure_allows_every_host_without_tls():
    assert parse(["--host", "0.0.0.0", "--insecure"], {}).insecure


# Variables that Kubernetes sets in every container for a Service with the name bart-server.
KUBERNETES = {
    "BART_SERVER_SERVICE_HOST": "10.0.0.11",
    "BART_SERVER_SERVICE_PORT": "50051",
    "BART_SERVER_SERVICE_PORT_GRPC": "50051",
    "BART_SERVER_PORT": "tcp://10.0.0.11:50051",
    "BART_SERVER_PORT_50051_TCP": "tcp://10.0.0.11:50051",
    "BART_SERVER_PORT_50051_TCP_PROTO": "tcp",
    "BART_SERVER_PORT_50051_TCP_PORT": "50051",
    "BART_SERVER_PORT_50051_TCP_ADDR": "10.0.0.11",
}


def test_variables_that_kubernetes_sets_for_a_service_are_no_settings():
    assert parse([], KUBERNETES | {"BART_SERVER_CHUNK": "5"}) == Settings(chunk=5)
    assert parse([], {"BART_SERVER_PORT": "50052"}).port == 50052


def test_a_misspelled_variable_is_refused():
    with pytest.raises(SettingsError, match="BART_SERVER_PROT"):
        parse([], {"BART_SERVER_PROT": "1"})


def test_every_setting_has_a_flag_with_its_default_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in shown
