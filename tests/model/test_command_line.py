"""The command line as people use it: every answer, every error, terminals and pipes."""
import json
import math
import os
import subprocess
import sys

import pytest
from conftest import PROGRAM, SMALL_RUN

import gltch_2_7m as gltch

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal or pipe")


def assert_one_sentence(done, *words):
    """What every error is: exit status 2, one line that says what is wrong, nothing else."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert done.stderr.startswith("gltch_2_7m.py: error: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture
def here(monkeypatch, straight):
    """The folder in which a network has been trained, as the current one."""
    monkeypatch.chdir(straight.home)
    return straight


@pytest.fixture
def gltch_main(capsys):
    """Run the command line inside this process, for what does not depend on how it was started."""

    def run(*arguments):
        try:
            code = gltch.main([str(argument) for argument in arguments])
        except SystemExit as answered:  # help, or a typing error
            code = answered.code
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


@pytest.mark.parametrize("arguments, batch_size, steps", [
    ([], 16, 12000),
    (["--batch-size", "64"], 64, 3000),
    (["--size", "10m", "--batch-size", "32"], 32, 8000),
    (["--size", "10m"], 16, 16000),
])
def test_however_it_is_cut_into_steps_the_full_run_sees_as_many_characters(
        monkeypatch, gltch_main, arguments, batch_size, steps):
    def train(config, recipe, corpus, reference, **others):
        raise gltch.GltchError(f"{recipe.batch_size} {reference} {recipe.eval_every}")

    monkeypatch.setattr(gltch, "train", train)
    done = gltch_main("--device", "cpu", *arguments, "--eval-every", "7")
    assert done.stderr == f"gltch_2_7m.py: error: {batch_size} {steps} 7\n"


# --- Help and typing errors -----------------------------------------------------------------------


def test_help_begins_with_three_commands_to_paste(gltch_cli):
    done = gltch_cli("--help")
    commands = [line.strip() for line in done.stdout.splitlines() if line.strip()][:3]
    assert (done.returncode, done.stderr) == (0, "")
    assert len(commands) == 3
    for command in commands:
        assert command.startswith(f"python {PROGRAM}")
        words = command.split("   ")[0].split()[2:]
        assert gltch.parse_arguments(words).command in gltch.COMMANDS


@pytest.mark.parametrize("command", gltch.COMMANDS)
def test_every_command_has_help(gltch_main, command):
    done = gltch_main(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: gltch_2_7m.py {command}")


@pytest.mark.parametrize("arguments, word", [
    (["--stepps", "5"], "--stepps"),
    (["--steps", "many"], "many"),
    (["--batch-size", "1.5"], "1.5"),
    (["--size", "3m"], "3m"),
    (["--optimizer", "sdg"], "sdg"),
    (["--name"], "--name"),
    (["smaple"], "smaple"),
    (["sample", "--lenght", "5"], "--lenght"),
    (["sample", "--len", "5"], "--len"),
    (["sample", "--temperature", "warm"], "warm"),
    (["info", "--size", "huge"], "huge"),
])
def test_a_typing_error_is_one_sentence(gltch_main, arguments, word):
    assert_one_sentence(gltch_main(*arguments), word, "--help")


def test_a_typing_error_ends_the_program_with_that_sentence(gltch_cli):
    assert_one_sentence(gltch_cli("--stepps", "5"), "--stepps", "--help")


@pytest.fixture
def torch_is(tmp_path):
    """An environment in which importing PyTorch does something else."""

    def replaced_by(line):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "torch.py").write_text(line)
        return {"PYTHONPATH": str(tmp_path / "other")}

    return replaced_by


def test_without_pytorch_a_sentence_says_what_to_install(gltch_cli, torch_is):
    missing = torch_is("raise ModuleNotFoundError('there is no torch', name='torch')")
    assert_one_sentence(gltch_cli("info", environment=missing), "pip install torch requests")


def test_a_package_that_pytorch_misses_is_another_matter(gltch_cli, torch_is):
    missing = torch_is("raise ModuleNotFoundError('there is no sympy', name='sympy')")
    assert "there is no sympy" in gltch_cli("info", environment=missing).stderr


@posix
def test_ctrl_c_while_pytorch_loads_ends_without_a_traceback(gltch_cli, torch_is):
    interrupted = torch_is(
        "import signal; signal.raise_signal(signal.SIGINT); raise SystemExit('went on')")
    done = gltch_cli("info", environment=interrupted)
    assert done.returncode == 130 and "Traceback" not in done.stderr


@pytest.mark.process
def test_importing_the_module_does_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import gltch_2_7m"], timeout=240,
                          env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)},
                          capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, word", [
    (["--steps", "0"], "steps"),
    (["--minutes", "-1"], "minutes"),
    (["--learning-rate", "nan"], "learning_rate"),
    (["--dropout", "1"], "dropout"),
    (["--device", "abacus"], "abacus"),
    (["--precision", "fp16"], "fp16"),
    (["--data", "gone.txt"], "gone.txt"),
    (["--data", "htp://example.org/a"], "'htp://example.org/a' is no address: one"),
    (["my.txt"], "there is no command 'my.txt'"),
    (["my.txt", "--steps", "1"], "is given with --data"),
    (["--resume"], "start one with"),
    (["--resume", "runs/gone"], "runs/gone"),
    (["sample"], "start one with"),
    (["chat"], "start one with"),
    (["eval"], "start one with"),
    (["export"], "start one with"),
    (["sample", "--checkpoint", "gone.pt"], "gone.pt"),
    (["eval", "--checkpoint", "gone.pt"], "gone.pt"),
    (["info", "--checkpoint", "gone.pt"], "gone.pt"),
    (["info", "--checkpoint", "gone.pt", "--size", "1m"], "one of them"),
    (["export", "--output", "model.bin"], ".safetensors"),
])
def test_what_cannot_be_done_is_one_sentence(
        monkeypatch, gltch_main, text_file, place, arguments, word):
    monkeypatch.setenv("GLTCH_DATA", str(text_file))
    assert_one_sentence(gltch_main(*arguments), word)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("arguments, word", [
    (["--length", "-1"], "length"),
    (["--temperature", "-1"], "temperature"),
    (["--top-k", "0"], "top_k"),
    (["--top-p", "0"], "top_p"),
    (["--repetition-penalty", "0"], "repetition_penalty"),
    (["--count", "0"], "count"),
])
def test_a_setting_out_of_range_is_one_sentence(here, gltch_main, arguments, word):
    assert_one_sentence(gltch_main("sample", *arguments), word)


def test_a_damaged_checkpoint_is_one_sentence(gltch_cli, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02garbage")
    assert_one_sentence(gltch_cli("sample", "--checkpoint", "bad.pt"), "bad.pt", "damaged")


# --- Training -------------------------------------------------------------------------------------


def test_training_keeps_stdout_empty_and_writes_plain_lines(straight):
    assert straight.stdout == ""
    assert "\r" not in straight.stderr and "\033" not in straight.stderr
    assert "step 60/60" in straight.stderr
    assert "gltch_2_7m.py sample --checkpoint runs" in straight.stderr


def test_without_a_terminal_no_prompt_is_offered(straight):
    assert "Ctrl-D" not in straight.stderr and "> " not in straight.stdout


def test_a_text_can_come_from_stdin(gltch_cli, text_file):
    done = gltch_cli("--data", "-", *SMALL_RUN, "--steps", 1, stdin=text_file.read_text())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "6,021 characters" in done.stderr


def test_a_run_on_standard_input_asks_for_the_text_again(here, gltch_main, tmp_path):
    state = gltch.read_checkpoint(here.folder / "last.pt")
    gltch.save_checkpoint(tmp_path / "last.pt", {**state, "paths": ["-"]})
    for command in (["--resume", tmp_path / "last.pt"],
                    ["eval", "--checkpoint", tmp_path / "last.pt"]):
        assert_one_sentence(gltch_main(*command), "standard input", "--data")


def test_offline_it_learns_from_the_built_in_text_and_says_so(monkeypatch, gltch_main):
    tiny = gltch.Config(block_size=16, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setitem(gltch.PRESETS, "1m", (tiny, *gltch.PRESETS["1m"][1:]))
    done = gltch_main(*SMALL_RUN, "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert "could not be downloaded" in done.stderr and "built in" in done.stderr
    assert "a text that comes with Python takes its place" in done.stderr


def test_minutes_in_which_hardly_a_step_fits_are_remarked_on(monkeypatch, gltch_main, text_file):
    tiny = gltch.Config(block_size=16, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setitem(gltch.PRESETS, "1m", (tiny, *gltch.PRESETS["1m"][1:]))
    for length, remark in ((["--minutes", 1e-9], True), (["--steps", 1], False)):
        done = gltch_main("--data", text_file, *SMALL_RUN, *length, "--name", str(remark))
        assert done.returncode == 0 and "Trained 1 step:" in done.stderr
        assert ("No more fitted into --minutes 1e-09" in done.stderr) == remark


@pytest.mark.parametrize("words, sequences", [
    (["--minutes", 1e-9], 16), ([], 16), (["--minutes", 1e-9, "--batch-size", 64], 64),
    (["--steps", 1], 64)])
def test_a_step_is_smaller_where_a_cpus_clock_ends_the_run_and_nobody_says_how_large_it_is(
        monkeypatch, gltch_main, text_file, words, sequences):
    tiny = gltch.Config(block_size=16, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setitem(gltch.PRESETS, "1m", (tiny, *gltch.PRESETS["1m"][1:]))
    monkeypatch.setattr(gltch, "CPU_MINUTES", 1e-9)
    done = gltch_main("--data", text_file, "--size", "1m", "--device", "cpu", *words)
    assert done.returncode == 0 and f"a step    {sequences} x 16 characters" in done.stderr
    full = gltch.PRESETS["1m"][2] * 64 // sequences
    assert (f"--steps {full} --batch-size {sequences}" in done.stderr) == (not words)


def test_gltch_data_names_the_text(monkeypatch, gltch_main, text_file):
    monkeypatch.setenv("GLTCH_DATA", str(text_file))
    done = gltch_main(*SMALL_RUN, "--steps", 1)
    assert done.returncode == 0 and "words.txt (GLTCH_DATA)" in done.stderr
    assert "Trained 1 step:" in done.stderr


@pytest.mark.parametrize("setting", ["--steps 5", "--size 1m", "--name other", "--dropout 0.2",
                                     "--low-memory", "--seed 3 --batch-size 4"])
def test_resuming_takes_no_other_settings(here, gltch_main, setting):
    flags = [word for word in setting.split() if word.startswith("--")]
    assert_one_sentence(gltch_main("--resume", *setting.split()), *flags)


@pytest.mark.parametrize("allowed", [[], ["--device", "cpu", "--precision", "fp32"]])
def test_resuming_a_complete_run_is_one_sentence(here, gltch_main, allowed):
    assert_one_sentence(gltch_main("--resume", *allowed), "complete")


def test_resuming_with_another_text_is_one_sentence(here, gltch_main, tmp_path, text_file):
    (tmp_path / "other.txt").write_bytes(text_file.read_bytes() + b"more")
    assert_one_sentence(gltch_main("--resume", "--data", tmp_path / "other.txt"), "another text")


def test_a_name_in_use_is_one_sentence(here, gltch_main, text_file):
    assert_one_sentence(gltch_main("--data", text_file, *SMALL_RUN, "--name", "straight"),
                        "runs/straight".replace("/", os.sep), "--resume")


# --- info, eval, export ---------------------------------------------------------------------------


def test_info_counts_the_parameters(gltch_cli):
    done = gltch_cli("info")
    assert done.returncode == 0 and done.stderr == ""
    assert "2,708,736" in done.stdout


def test_info_shows_any_size_without_building_it(gltch_main):
    assert "202,575,872" in gltch_main("info", "--size", "200m").stdout


def test_info_shows_a_checkpoint(here, gltch_main):
    shown = gltch_main("info", "--checkpoint", "runs/straight").stdout
    assert "step 60" in shown and "1,011,200" in shown and "vocabulary 35" in shown


def test_eval_repeats_the_last_evaluation_of_the_run(here, gltch_cli):
    lines = (here.folder / "log.jsonl").read_text().splitlines()
    last = [point for point in map(json.loads, lines) if point["kind"] == "eval"][-1]
    done = gltch_cli("eval", "--checkpoint", here.folder / "last.pt")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert measured["nats"] == pytest.approx(last["loss"], abs=1e-3)
    assert measured["bits"] == pytest.approx(measured["nats"] / math.log(2))
    assert measured["perplexity"] == pytest.approx(math.exp(measured["nats"]))


def test_eval_measures_unseen_characters_only(here, gltch_main, text_file, tmp_path):
    own = json.loads(gltch_main("eval").stdout)
    held_back = len(text_file.read_text()) - len(text_file.read_text()) * 9 // 10
    assert (own["part"], own["characters"]) == (
        "validation split of its training text", held_back - 1)
    (tmp_path / "other.txt").write_bytes(text_file.read_bytes()[:1000])
    other = json.loads(gltch_main("eval", "--data", tmp_path / "other.txt").stdout)
    assert (other["part"], other["characters"]) == ("whole text", 999)


def test_eval_names_characters_the_network_does_not_know(here, gltch_main, tmp_path):
    (tmp_path / "greek.txt").write_text("Abc \u03b1\u03b2\u03b3 def abc def abc", encoding="utf-8")
    assert_one_sentence(gltch_main("eval", "--data", tmp_path / "greek.txt"), "\u03b1", "\u03b3")


def test_an_exported_network_writes_and_measures_the_same(here, gltch_main, tmp_path, text_file):
    model = tmp_path / "model.safetensors"
    done = gltch_main("export", "--output", model)
    assert (done.returncode, done.stdout) == (0, "") and "model.safetensors" in done.stderr
    sample = ["sample", "--seed", 1, "--length", 40]
    assert gltch_main(*sample).stdout == gltch_main(*sample, "--checkpoint", model).stdout
    measured = [json.loads(gltch_main("eval", "--data", text_file, *more).stdout)
                for more in ([], ["--checkpoint", model])]
    assert measured[0] == measured[1]


def test_an_output_that_cannot_be_written_is_one_sentence(here, gltch_main, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    output = tmp_path / "file" / "model.safetensors"
    assert_one_sentence(gltch_main("export", "--output", output), "model.safetensors")


# --- sample ---------------------------------------------------------------------------------------


def test_sample_writes_the_text_to_stdout_and_nothing_else(here, gltch_cli):
    done = gltch_cli("sample", "--prompt", "Abc", "--length", 30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Abc") and len(done.stdout) == 3 + 30 + 1


def test_the_same_seed_writes_the_same_text(here, gltch_main):
    texts = [gltch_main("sample", "--seed", seed, "--length", 40).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_three_texts_each_begin_with_the_prompt(here, gltch_main):
    texts = gltch_main("sample", "--count", 3, "--prompt", "Abc", "--seed", 1, "--length", 20)
    parts = texts.stdout.split("\n---\n")
    assert len(parts) == len(set(parts)) == 3
    assert all(part.startswith("Abc") for part in parts)


@pytest.mark.parametrize("count", [1, 2])
def test_stop_ends_a_text_before_the_word(here, gltch_main, count):
    sample = ["sample", "--prompt", "Abc", "--seed", 1, "--length", 60, "--count", count]
    whole = gltch_main(*sample).stdout
    word = whole[10:13]
    text = gltch_main(*sample, "--stop", word).stdout[:-1]  # less the last line end
    assert text.split("\n---\n")[0] == whole[:3] + whole[3:].split(word)[0]


def test_unknown_characters_of_the_prompt_are_named_and_left_out(here, gltch_main):
    done = gltch_main("sample", "--prompt", "A\u03b1bc#", "--length", 5)
    assert done.returncode == 0 and done.stdout.startswith("Abc")
    assert "'\u03b1'" in done.stderr and "'#'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("prompt", ["", "\u03b1"])
def test_a_prompt_may_be_empty(here, gltch_main, prompt):
    done = gltch_main("sample", "--prompt", prompt, "--length", 12)
    assert done.returncode == 0 and len(done.stdout) == 13


@posix
def test_a_reader_that_has_enough_ends_it_without_a_word(here, start_gltch):
    process = start_gltch("sample", "--length", 100_000)
    assert len(process.stdout.read(5)) == 5
    process.stdout.close()
    assert process.wait(timeout=240) == 0
    assert process.stderr.read() == ""


@posix
@pytest.mark.parametrize("arguments", [["--help"], ["info"],
                                       ["sample", "--length", "3", "--count", "2"]])
def test_a_reader_that_wants_nothing_hears_nothing(here, start_gltch, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    process = start_gltch(*arguments, stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=240)[1] == ""


# --- chat -----------------------------------------------------------------------------------------


def test_chat_answers_every_line_of_a_pipe_and_ends_with_it(here, gltch_cli):
    done = gltch_cli("chat", "--length", 30, "--seed", 1, stdin="Abc\n\u03b1Def\n")
    assert done.returncode == 0
    assert len(done.stdout) == 2 * 31 and done.stdout[30] == done.stdout[61] == "\n"
    assert "'\u03b1'" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def terminal(processes):
    """Run the command line in a pseudo-terminal; it is closed when the test ends."""
    import pexpect
    children = []

    def spawn(*arguments, **environment):
        environment = {**os.environ, "TERM": "xterm", **environment}
        children.append(pexpect.spawn(
            sys.executable, [str(word) for word in (PROGRAM, *arguments)], env=environment,
            dimensions=(24, 120), encoding="utf-8", timeout=240))
        return children[-1]

    yield spawn
    for child in children:
        child.close(force=True)


def assert_ends_well(child):
    rest = child.read()
    child.wait()
    assert child.exitstatus == 0 and "Traceback" not in rest


@posix
def test_a_terminal_shows_a_live_line_and_then_offers_a_prompt(terminal, text_file):
    child = terminal("--data", text_file, *SMALL_RUN, "--steps", 2)
    child.expect("\nTrained 2 steps")
    shown = child.before
    assert "\r\033[K" in shown and "━" in shown and "\033[32m" in shown and "100%" in shown
    child.expect("\n> ")
    child.sendline("Abc")
    child.expect("\n> ")
    assert len(child.before) > 400
    child.sendeof()
    assert_ends_well(child)


@posix
def test_no_color_keeps_the_bar(terminal, text_file):
    child = terminal("--data", text_file, *SMALL_RUN, "--steps", 1, NO_COLOR="1")
    child.expect("\n> ")
    assert "━" in child.before and "\033[3" not in child.before and "\033[9" not in child.before


@posix
def test_ctrl_c_stops_a_passage_and_the_conversation_goes_on(here, terminal):
    child = terminal("chat", "--length", 1_000_000)
    child.expect("> ")
    child.sendline("Abc")
    child.expect("Abc\r\n..........")
    child.sendintr()
    child.expect("\n> ")
    child.sendintr()
    assert_ends_well(child)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="other systems' threads wait in other ways")
@pytest.mark.parametrize("chosen", [None, "123"])
def test_waiting_threads_leave_the_processor_soon_unless_the_user_chose_how_soon(chosen):
    """A machine that several programs share would be busy with waiting otherwise."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}  # asks the library what it does
    environment.pop("GOMP_SPINCOUNT", None)
    environment.update({"GOMP_SPINCOUNT": chosen} if chosen else {})
    done = subprocess.run([sys.executable, str(PROGRAM), "--help"], env=environment,
                          capture_output=True, encoding="utf-8")
    assert f"GOMP_SPINCOUNT = '{chosen or 5000}'" in done.stderr
