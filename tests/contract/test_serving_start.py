"""What the server says when it cannot start: one line that names the flag or the path, and an exit code other than 0."""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from serving_process import free_ports

from serving.server.config import read_models
from serving.server.errors import StartError
from serving.server.options import ServerOptions, add_arguments

pytestmark = pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own")


def serve(*flags):
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--port=0",
        f"--rest_api_port={free_ports(1)[0]}",
        *flags,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def options(*words):
    """What the flags mean, read in this process."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return ServerOptions.of(parser.parse_args(words))


def refusal(*flags):
    done = serve(*flags)
    assert done.returncode not in (0, -15), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def base_path(models, tmp_path):
    """A base path with a version of its own, to break."""
    shutil.copytree(models / "half" / "1", tmp_path / "half" / "1")
    return tmp_path / "half"


def test_a_port_in_use(base_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(f"--model_base_path={base_path}", f"--rest_api_port={port}")
    assert f"--rest_api_port={port}" in said


def test_a_grpc_port_in_use(base_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(f"--model_base_path={base_path}", f"--port={port}", "--rest_api_port=0")
    assert f"--port={port}" in said


def test_one_port_for_both(base_path):
    assert "--port and --rest_api_port are both 8500" in refusal(
        f"--model_base_path={base_path}", "--port=8500", "--rest_api_port=8500"
    )


def test_no_port_at_all():
    with pytest.raises(StartError, match="--port and --rest_api_port are both 0; one must be a port"):
        options("--port=0", "--rest_api_port=0")


@pytest.mark.parametrize("flag", ["rest_api_num_threads", "grpc_max_threads", "max_connections", "max_batch"])
def test_a_number_that_would_answer_nobody(flag):
    with pytest.raises(StartError, match=f"--{flag}=0"):
        options(f"--{flag}=0")


def test_a_limit_beyond_what_grpc_takes():
    with pytest.raises(StartError, match="--max_body_bytes=2147483648 is more than gRPC takes, 2147483647"):
        options("--max_body_bytes=2147483648")


def test_a_key_in_the_environment_is_read_as_one_in_a_file_is(monkeypatch):
    for text, key in (("secret\n", "secret"), ("", None)):
        monkeypatch.setenv("RECOMMENDER_API_KEY", text)
        assert options().api_key() == key
    for text in ("two\nlines", "\n"):
        monkeypatch.setenv("RECOMMENDER_API_KEY", text)
        with pytest.raises(
            StartError, match="RECOMMENDER_API_KEY holds no key of printable ASCII characters"
        ):
            options()


@pytest.mark.parametrize("flag", ["load_retry_interval_micros", "rest_api_timeout_in_ms"])
def test_a_wait_may_be_negative(flag):
    """main.cc: "If set negative, it doesn't wait"; RunOptions: only a timeout above 0 is one."""
    assert getattr(options(f"--{flag}=-1"), flag) == -1


def test_a_port_that_is_none(base_path):
    assert "--rest_api_port=70000" in refusal(f"--model_base_path={base_path}", "--rest_api_port=70000")


def test_nothing_to_serve():
    assert "--bundle" in refusal()


def test_a_base_path_that_is_not_there(tmp_path):
    assert str(tmp_path / "no") in refusal(f"--model_base_path={tmp_path / 'no'}")


def test_a_base_path_without_versions(tmp_path):
    assert "no version" in refusal(f"--model_base_path={tmp_path}")


def test_a_version_half_written(base_path):
    (base_path / "1" / "saved_model.pb").unlink()
    assert "saved_model.pb" in refusal(f"--model_base_path={base_path}")


def test_a_version_that_does_not_load(base_path):
    (base_path / "1" / "saved_model.pb").write_bytes(b"\xff" * 100)
    said = refusal(f"--model_base_path={base_path}")
    assert f"{base_path / '1'} does not load" in said


def test_a_bundle(base_path, tmp_path):
    assert "manifest.json" in refusal(f"--bundle={tmp_path}")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    with pytest.raises(StartError, match=f"{tmp_path / 'bundle'} is one"):
        read_models(options(f"--bundle={tmp_path}"))
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{")
    assert "not a bundle's manifest" in refusal(f"--bundle={tmp_path}")
    manifest.write_text(json.dumps({"format": 99}))
    assert "format 99" in refusal(f"--bundle={tmp_path}")
    manifest.write_text(json.dumps({"format": 1}))
    assert str(tmp_path / "models") in refusal(f"--bundle={tmp_path}")


@pytest.mark.parametrize("place", ["other", "recommender/7"])
def test_a_bundle_that_leads_elsewhere(base_path, tmp_path, place):
    """Path tricks: what is served lies in the bundle."""
    (tmp_path / "bundle" / "models" / "recommender").mkdir(parents=True)
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({"format": 1}))
    (tmp_path / "bundle" / "models" / place).symlink_to(base_path)
    assert "leads out of the bundle" in refusal(f"--bundle={tmp_path / 'bundle'}")


def test_flags_that_only_the_real_server_has(base_path):
    for flag in ("--enable_profiler", "--xla_gpu_compilation_enabled"):
        assert f"{flag} is not supported" in refusal(f"--model_base_path={base_path}", f"{flag}=true")


def test_a_flag_that_only_the_real_server_has_and_that_asks_for_nothing(base_path):
    off = ("--enable_profiler=false", "--per_process_gpu_memory_fraction=0", "--no_such_flag=1")
    assert "unrecognized arguments: --no_such_flag=1" in refusal(f"--model_base_path={base_path}", *off)


def test_the_version():
    done = serve("--version")
    first, second = done.stdout.splitlines()
    assert (done.returncode, first[:24], second[:20]) == (
        0,
        "TensorFlow ModelServer: ",
        "TensorFlow Library: ",
    )


def test_half_a_flag_is_none(base_path):
    """Flags are spelled out: what the real server would refuse must not start here."""
    assert "--model_base" in refusal(f"--model_base={base_path}")


def test_a_flag_that_nobody_has(base_path):
    assert "--no_such_flag" in refusal(f"--model_base_path={base_path}", "--no_such_flag=1")


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [
        ("model_config_file", "model_config_list { config { nam", "ModelServerConfig"),
        ("model_config_file", "custom_model_config {}", "custom_model_config is not supported"),
        (
            "model_config_file",
            'model_config_list { config { name: "a" } config { name: "a" } }',
            "Illegal to list model a multiple times in config list",
        ),
        ("batching_parameters_file", "max_batch { value: 3 }", "BatchingParameters"),
        (
            "batching_parameters_file",
            "allowed_batch_sizes: 8 max_batch_size { value: 4 }",
            "allowed_batch_sizes",
        ),
        (
            "batching_parameters_file",
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 8 } max_batch_size { value: 4 }",
            "max_execution_batch_size must be up to max_batch_size",
        ),
        (
            "batching_parameters_file",
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 } max_batch_size { value: 8 } "
            "allowed_batch_sizes: 8",
            "allowed_batch_sizes must rise, up to max_execution_batch_size",
        ),
        ("monitoring_config_file", "prometheus { }", "MonitoringConfig"),
        ("api_key_file", "  ", "holds no key"),
    ],
)
def test_files_that_are_wrong(base_path, tmp_path, flag, text, said):
    file = tmp_path / "file"
    file.write_text(text)
    flags = [f"--{flag}={file}"]
    if flag != "model_config_file":
        flags.append(f"--model_base_path={base_path}")
    if flag == "batching_parameters_file":
        flags.append("--enable_batching")
    assert said in refusal(*flags)


def test_a_file_that_is_not_there(base_path, tmp_path):
    assert f"--tls_key: there is no file {tmp_path / 'key'}" in refusal(
        f"--model_base_path={base_path}",
        f"--tls_key={tmp_path / 'key'}",
        f"--tls_certificate={sys.executable}",
    )


def certify(folder):
    """Makes a certificate and its key."""
    made = folder / "certificate.pem", folder / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -out {} -keyout {}"
    subprocess.run(["openssl", *words.format(*made).split()], check=True, capture_output=True)
    return made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_files_that_are_wrong(tmp_path):
    (tmp_path / "other").mkdir()
    certificate, key = certify(tmp_path)
    _, other = certify(tmp_path / "other")
    locked, bad = tmp_path / "locked.pem", tmp_path / "bad.pem"
    words = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(words, check=True, capture_output=True)
    bad.write_bytes(b"\xff")
    for pair, said in {
        (bad, key): f"--tls_certificate {bad} holds no PEM certificate",
        (key, key): f"--tls_certificate {key} holds no PEM certificate",
        (certificate, bad): f"--tls_key {bad} holds no PEM key",
        (certificate, locked): f"--tls_key {locked} holds no PEM key",
        (
            certificate,
            other,
        ): f"--tls_key {other} holds no PEM key, without a password, of --tls_certificate {certificate}",
    }.items():
        with pytest.raises(StartError) as caught:
            options("--tls_certificate", str(pair[0]), "--tls_key", str(pair[1]))
        assert said in str(caught.value)
    assert options("--tls_certificate", str(certificate), "--tls_key", str(key)).tls_key == key


def test_a_key_file_that_is_no_text(tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=f"--api_key_file {tmp_path / 'key'} holds no key"):
        options("--api_key_file", str(tmp_path / "key"))


def test_help_is_quick():
    code = (
        "import sys; from serving.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "--model_config_file" in done.stdout
