"""Starts everything in the real server's order: models first, then the ports; stops gracefully, the last request answered."""

import asyncio
import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from serving.server.errors import StartError
from serving.server.manager import Manager
from serving.server.model_config import read_text_proto
from serving.server.options import ServerOptions
from serving.server.predict import Predictor
from serving.server.rest import RestApi
from serving.server.rpc import grpc_server

logger = logging.getLogger("serving.server")
DRAIN_SECONDS = 10
METRICS_PATH = "/monitoring/prometheus/metrics"


def serve(options: ServerOptions) -> int:
    """Serves until SIGTERM or SIGINT and returns 0; raises `StartError` where it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    listener = _listen(options)
    manager = Manager(options.models)
    predictor = Predictor(manager, options.max_batch)
    grpc = grpc_server(predictor, options)
    manager.start(options.poll_seconds)
    grpc.start()
    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="rest")
    api = RestApi(predictor, pool, options, _metrics_path(options))
    config = uvicorn.Config(
        api.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_SECONDS,
        limit_concurrency=1000,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
    )
    listener.listen(1024)
    scheme = "https" if options.tls_certificate else "http"
    logger.info("REST at %s://%s:%d, gRPC at %s:%d", scheme, options.host, options.rest_port, options.host, options.grpc_port)
    try:
        asyncio.run(_run(uvicorn.Server(config), listener))
    finally:
        grpc.stop(DRAIN_SECONDS).wait()
        manager.stop()
        pool.shutdown()
    return 0


async def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    work = loop.create_task(server._serve([listener]))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    await work


def _listen(options: ServerOptions) -> socket.socket:
    """Returns the REST socket, bound before the models load: a taken port is known at once, and nobody else gets it."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.rest_port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"--rest_api_port={options.rest_port}: cannot bind {options.host}:{options.rest_port} ({error.strerror}); give another --rest_api_port"
        ) from None
    return listener


def _metrics_path(options: ServerOptions) -> str:
    if options.monitoring_file is None:
        return METRICS_PATH
    from tensorflow_serving.config import monitoring_config_pb2

    config = read_text_proto(options.monitoring_file, monitoring_config_pb2.MonitoringConfig(), "--monitoring_config_file")
    return str(config.prometheus_config.path) or METRICS_PATH
