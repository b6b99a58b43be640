"""TLS over both protocols, with a certificate made for the test."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import StubServer

from serving.client import Recommender, UntrustedServer
from serving.client.messages import PredictRequest, PredictResponse

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    address = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*words.split(), *address], check=True, capture_output=True)
    return key, chain


@pytest.fixture
def https(server: StubServer, certificate: tuple[Path, Path]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return f"https://127.0.0.1:{server.server_port}"


@pytest.fixture
def grpcs(certificate: tuple[Path, Path]) -> Iterator[str]:
    def predict(request: Any, context: grpc.ServicerContext) -> Any:
        answer = PredictResponse()
        title = answer.outputs["title"]
        title.dtype = 7
        title.tensor_shape.dim.add(size=1)
        title.string_val.append("Tïtle i1".encode())
        return answer

    method = grpc.unary_unary_rpc_method_handler(
        predict, PredictRequest.FromString, PredictResponse.SerializeToString
    )
    service = "tensorflow.serving.PredictionService"
    running = grpc.server(ThreadPoolExecutor(1))
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Predict": method}),))
    pair = (certificate[0].read_bytes(), certificate[1].read_bytes())
    port = running.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    running.start()
    yield f"grpcs://127.0.0.1:{port}"
    running.stop(None).wait()


@pytest.mark.parametrize("protocol", ["https", "grpcs"])
def test_a_certificate_is_checked(
    protocol: str, certificate: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(protocol)
    with Recommender(url, ca_file=str(certificate[1]), api_key="secret") as client:
        assert client.titles(["i1"]) == ["Tïtle i1"]
    refusal = pytest.raises(UntrustedServer, match=r"ca_file.*CERTIFICATE_VERIFY_FAILED")
    with Recommender(url) as client, refusal:
        client.wait_until_ready()
