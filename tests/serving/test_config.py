"""What flags and configuration files mean, away from the wire: tensorflow.org/tfx/serving/serving_config."""

from dataclasses import replace

import pytest

from serving.server.config import read_batching, read_models
from serving.server.errors import StartError
from serving.server.options import ServerOptions

SIMPLE = 'name: "m" base_path: "/m" model_platform: "tensorflow"'


def models(tmp_path, text, **options):
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ config {{ {text} }} }}")
    return read_models(ServerOptions(model_config_file=file, **options))


@pytest.mark.parametrize(("text", "found"), [("", None), ("model_config_list {}", [])])
def test_a_file_without_models(tmp_path, text, found):
    """ServerCore::ReloadConfig: an empty list is a list, an empty file says nothing."""
    (tmp_path / "models.config").write_text(text)
    assert read_models(ServerOptions(model_config_file=tmp_path / "models.config")) == found


@pytest.mark.parametrize(
    ("policy", "loaded"),
    [
        ("", [7]),
        ("model_version_policy { latest {} }", [7]),
        ("model_version_policy { latest { num_versions: 2 } }", [5, 7]),
        ("model_version_policy { all {} }", [1, 5, 7]),
        ("model_version_policy { specific { versions: 1 versions: 5 versions: 9 } }", [1, 5]),
    ],
)
def test_version_policies(tmp_path, policy, loaded):
    """ "Serving a Specific Version", "Serving Multiple Versions": directories that are no int64 are no version."""
    for name in ("1", "005", "7", "x8", ".tmp-9", "9.5", str(2**63)):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "10").write_text("a file")
    (model,) = models(tmp_path, f'name: "m" base_path: "{tmp_path}/m" model_platform: "tensorflow" {policy}')
    assert sorted(model.aspired()) == loaded


def test_labels(tmp_path):
    (model,) = models(tmp_path, SIMPLE + " version_labels { key: 'stable' value: 4 }")
    assert model.labels == {"stable": 4}


def test_the_file_takes_the_place_of_the_base_path(tmp_path):
    """main.cc: "If used, --model_name, --model_base_path are ignored"."""
    (model,) = models(tmp_path, SIMPLE, model_name="other", model_base_path=tmp_path / "other")
    assert (model.name, str(model.base_path)) == ("m", "/m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "m" base_path: "/m"', "model_platform"),
        ('name: "m" base_path: "/m" model_platform: "tflite"', "'tflite'"),
        ('name: "m" base_path: "m" model_platform: "tensorflow"', "absolute path"),
        (
            SIMPLE + " model_type: TENSORFLOW",
            "Illegal setting both of model_type and model_platform of model 'm'",
        ),
        (SIMPLE + " logging_config {}", "logging_config is not supported"),
    ],
)
def test_what_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(StartError, match=said):
        models(tmp_path, text)


def test_the_older_word_for_the_platform(tmp_path):
    assert models(tmp_path, 'name: "m" base_path: "/m" model_type: TENSORFLOW')[0].name == "m"


def test_a_version_half_written_beside_a_whole_one_stops_no_start(tmp_path):
    """ServerCore waits until one version is available; of the other the status tells."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    config = replace(models(tmp_path, SIMPLE)[0], base_path=tmp_path)
    config.policy.all.SetInParent()
    with pytest.raises(StartError, match=r"2 has no saved_model\.pb; its export never finished"):
        config.check()
    (tmp_path / "1" / "saved_model.pb").touch()
    config.check()


def test_a_relative_base_path_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartError, match="absolute path"):
        read_models(ServerOptions(model_base_path=(tmp_path / "m").relative_to(tmp_path)))


def test_batching_parameters(tmp_path):
    """serving_config, "Batching Configuration": the example of the page, and what is left out."""
    file = tmp_path / "batching"
    file.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 0 } num_batch_threads { value: 8 }"
    )
    batching = read_batching(ServerOptions(enable_batching=True, batching_parameters_file=file))
    assert batching is not None
    assert (batching.max_batch_size, batching.num_batch_threads, batching.max_enqueued_batches) == (
        128,
        8,
        10,
    )
    assert read_batching(ServerOptions(batching_parameters_file=file)) is None


@pytest.mark.parametrize("name", ["max_batch_size", "max_enqueued_batches", "num_batch_threads"])
def test_a_batch_needs_a_row_a_place_and_a_thread(tmp_path, name):
    file = tmp_path / "batching"
    file.write_text(f"{name} {{ value: 0 }}")
    with pytest.raises(StartError, match=f"{name} is 0"):
        read_batching(ServerOptions(enable_batching=True, batching_parameters_file=file))
