"""A server's answers are the model's, or nothing is scored: each trap with a real server process."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from support.models import tiny_models
from support.units.endpoints import SERVE, SERVE_ANY, TRAP, answered, colour_config, running

from cotbal.data.records import BadRecordsError
from cotbal.output.manifest import Manifest
from cotbal.output.store import OutputFolder
from cotbal.units.endpoint.server import EndpointError

pytestmark = pytest.mark.slow
# What is asked before the table: the opening, the samples that are compared, and one question with two pictures.
BEFORE_THE_TABLE = 1 + 4 + 2


def kept(folder: Path) -> list[int]:
    path = folder / "run" / "units" / "mini" / "predictions" / "colour.jsonl"
    return (
        sorted(json.loads(line)["index"] for line in path.read_text().splitlines()) if path.is_file() else []
    )


def log(folder: Path) -> str:
    return (folder / "run" / "logs" / "mini-server.log").read_text()


def penalised(model: Path, folder: Path) -> Path:
    """The same model with a checkpoint's own idea of generation."""
    shutil.copytree(model, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"no_repeat_ngram_size": 1}))
    return folder


def test_a_started_server_answers_as_the_model_does_whatever_its_checkpoint_recommends(seeing, tmp_path):
    model = penalised(seeing.model, tmp_path / "m")
    found = answered(colour_config(tmp_path / "c", seeing.records, model, command=SERVE))
    assert found.answers == seeing.answers
    assert found.engine["server"] == "transformers"
    assert found.engine["version"][0].isdigit()
    assert found.engine["equal"] == found.engine["compared"] == 4
    assert found.engine["pictures_told_apart"] is True
    assert not list((tmp_path / "c" / "run" / "running").rglob("*serving*"))


def test_a_given_server_that_applies_the_checkpoints_penalties_is_refused(seeing, tmp_path):
    model = penalised(seeing.model, tmp_path / "m")
    with running(*SERVE_ANY) as url:
        config = colour_config(tmp_path / "c", seeing.records, model, base_url=url, model="{model}")
        with pytest.raises(EndpointError, match=r"does not answer as .* \(generation_config\.json") as caught:
            answered(config)
        assert "colours.json, record 0" in str(caught.value)
        # The same server with a folder that recommends nothing.
        plain = colour_config(tmp_path / "d", seeing.records, seeing.model, base_url=url, model="{model}")
        assert answered(plain).answers == seeing.answers
    assert kept(tmp_path / "c") == []


def test_a_server_that_loaded_the_model_as_text_only_is_refused(seeing, tmp_path):
    # It has found a tokenizer where the processor should be, answers 200 to every question, and drops the pictures.
    strip = (
        "import os, sys; path = sys.argv[1] + '/processor_config.json'; os.remove(path); "
        """open(path, 'w').write('{"processor_class": "TokenizersBackend"}'); os.execv(sys.argv[2], sys.argv[2:])"""
    )
    command = [sys.executable, "-c", strip, "{model}", *SERVE]
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=command)
    with pytest.raises(EndpointError, match="as text only and dropped what it was shown"):
        answered(config)
    assert '/v1/chat/completions HTTP/1.1" 200' in log(tmp_path / "c")
    assert kept(tmp_path / "c") == []


def test_a_server_that_counts_pictures_and_does_not_look_at_them_is_refused(seeing, tmp_path):
    # Red, as the first picture is: the one sample that is compared gives it away no more than the tokens do.
    command = [*TRAP, "--blank", "#e61414"]
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=command, compare=1)
    with pytest.raises(EndpointError, match="does not see pictures"):
        answered(config)
    blind = colour_config(tmp_path / "d", seeing.records, seeing.model, command=command, compare=0)
    found = answered(blind)
    assert "the same answer to different pictures" in found.said
    assert found.engine["pictures_told_apart"] is False
    assert found.engine["compared"] == 0


def test_a_bad_record_is_named_and_the_other_answers_are_kept(seeing, tmp_path):
    shutil.copytree(seeing.records.parent, tmp_path / "data")
    path = tmp_path / "data" / "colours.json"
    records = json.loads(path.read_text())
    records[5]["conversations"][0]["value"] += "BOOM"
    path.write_text(json.dumps(records))
    command = [*TRAP, "--fault", "BOOM"]
    config = colour_config(tmp_path / "c", path, seeing.model, command=command, in_flight=1)
    with pytest.raises(BadRecordsError, match="status 500") as caught:
        answered(config)
    (problem,) = caught.value.problems
    assert (problem.file, problem.index) == (path, 5)
    assert "answers other records" in problem.reason
    # The record with the longest question is asked first, and twice.
    assert log(tmp_path / "c").count('" 500 ') == 2


def test_an_engine_that_answers_nothing_any_more_is_not_taken_for_a_bad_record(seeing, tmp_path):
    command = [*TRAP, "--break-at", str(BEFORE_THE_TABLE + 3)]
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=command, in_flight=1)
    with pytest.raises(EndpointError, match=r"status 500 .*out of memory"):
        answered(config)
    assert len(kept(tmp_path / "c")) == 2


def test_a_server_of_another_model_is_refused_by_its_name(seeing, tmp_path):
    with running(*[word.replace("{model}", str(seeing.model)) for word in SERVE[:-1]], "float32") as url:
        config = colour_config(tmp_path / "c", seeing.records, seeing.model, base_url=url, model="{unit}")
        with pytest.raises(
            EndpointError, match=r"asked for the model 'mini' and answered with status 400 .*pinned"
        ):
            answered(config)
    trap = [word.replace("{model}", str(seeing.model)) for word in TRAP]
    with running(*trap, "--any-name", "--lists", "plus_colour") as url:
        config = colour_config(tmp_path / "d", seeing.records, seeing.model, base_url=url)
        with pytest.raises(
            EndpointError, match=r"answers whatever model is asked for.* it lists plus_colour"
        ):
            answered(config)


def test_a_server_of_another_model_by_the_right_name_is_refused_by_its_answers(seeing, tmp_path):
    model, processor = tiny_models.tiny_llava(seed=1)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    trap = [word.replace("{model}", str(tmp_path / "other")) for word in TRAP]
    with running(*trap, "--lists", "mini") as url:
        config = colour_config(tmp_path / "c", seeing.records, seeing.model, base_url=url)
        with pytest.raises(EndpointError, match="does not answer as mini does"):
            answered(config)


def test_a_server_that_dies_is_named_with_its_last_lines_and_the_table_is_finished_later(seeing, tmp_path):
    asked = BEFORE_THE_TABLE + 4
    command = [*TRAP, "--die-at", str(asked)]
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=command, in_flight=1)
    with pytest.raises(EndpointError) as caught:
        answered(config)
    assert "exit code 17" in str(caught.value)
    assert "CUDA error: an illegal memory access was encountered" in str(caught.value)
    done = kept(tmp_path / "c")
    assert len(done) == 3
    (tmp_path / "c" / "run" / "logs" / "mini-server.log").unlink()
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=TRAP, in_flight=1)
    assert answered(config).answers == seeing.answers
    posts = log(tmp_path / "c").count("POST /v1/chat/completions")
    assert posts == BEFORE_THE_TABLE + len(seeing.answers) - len(done)


def test_answers_of_another_model_are_asked_for_again(seeing, tmp_path):
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=TRAP)
    answered(config)
    (tmp_path / "c" / "run" / "logs" / "mini-server.log").unlink()
    answered(config, source="1:fedcba9876543210")
    posts = log(tmp_path / "c").count("POST /v1/chat/completions")
    assert posts == BEFORE_THE_TABLE + len(seeing.answers)


def test_one_table_is_scored_by_one_engine(seeing, tmp_path):
    command = [*TRAP, "--version", "2.0"]
    config = colour_config(tmp_path / "c", seeing.records, seeing.model, command=command)
    other = Manifest("plus_colour", "plus_colour", "prepare", 0, {}, {}, state="scored")
    folder = OutputFolder(config.output).unit("plus_colour")
    folder.write_manifest(other.advanced("scored", engine={"server": "trap", "version": "1.0"}))
    with pytest.raises(EndpointError, match=r"is trap 2\.0, and plus_colour was scored by trap 1\.0"):
        answered(config)
    folder.write_manifest(other.advanced("scored", engine={"server": "trap", "version": "2.0"}))
    assert answered(config).engine["version"] == "2.0"
