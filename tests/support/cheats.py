"""Submissions that cheat or do harm. Each attacks exercise ``number``, without having solved it.

QUIET ones touch their own exercise only, so many share a notebook. LOUD ones attack the whole run: one notebook each,
but for those of TOGETHER, which do not stop one another.
"""

import inspect
import textwrap

from tests.support.tiny_course import NAMES, SOLUTION, public_answer

STUB = 'raise NotImplementedError("Exercise 1.{number}")'
SKIP = {"metadata": {"tags": ["nbval-skip", "raises-exception", "nbval-raises-exception"]}}
PASSED = {"output_type": "stream", "name": "stdout", "text": "passed\n"}


def answered(source, exercise=None, check=None):
    """An attack that is the exercise's own body; and what becomes of its cell, and of its check's."""

    def attack(book, number, **_):
        book.answer(number, textwrap.dedent(source).strip().replace("{number}", str(number)))
        book.find(f"exercise-{number}").update(exercise or {})
        book.find(f"check-{number}").update(check or {})

    return attack


def check_deleted(book, number, **_):
    book.answer(number, STUB.replace("{number}", str(number)))
    book.cells.remove(book.find(f"check-{number}"))


def points_in_metadata(book, number, **_):
    book.answer(number, STUB.replace("{number}", str(number)))
    book.find(f"exercise-{number}")["metadata"]["course"] = {"id": f"1.{number}", "points": 1000, "kind": "manual"}


def reads_another_submission(book, number, folder, **_):
    book.answer(
        number,
        "import json\n"
        f"cells = json.load(open({str(folder / 'anna' / 'tiny.ipynb')!r}))['cells']\n"
        f"exec(next(c['source'] for c in cells if c['id'] == 'exercise-{number}'), scope := {{}})\n"
        f"return scope['{NAMES[number - 1]}'](a, b, t)",
    )


def asks_the_network(book, number, address, **_):
    book.answer(
        number,
        "import socket, json\n"
        f"s = socket.create_connection({address!r}, 2)\n"
        "s.sendall(json.dumps([list(a), list(b), t]).encode())\n"
        "return np.array(json.loads(s.recv(9999)))",
    )


QUIET = {
    "check_deleted": check_deleted,
    "check_edited": answered(STUB, check={"source": 'print("passed")'}),
    "outputs_forged": answered(STUB, check={"outputs": [PASSED], "execution_count": 7}),
    "skip_tag": answered(STUB, SKIP, SKIP),
    "skip_comment": answered(f"{STUB}\n# NBVAL_SKIP\n# NBVAL_RAISES_EXCEPTION"),
    "turned_to_text": answered(SOLUTION, {"cell_type": "markdown"}),
    "turned_to_raw": answered(SOLUTION, {"cell_type": "raw"}),
    "points_in_metadata": points_in_metadata,
    "learned_by_heart": answered(inspect.getsource(public_answer).split("\n", 2)[2]),
    "reads_another_submission": reads_another_submission,
    "asks_the_network": asks_the_network,
}
QUIET["equal_to_everything"] = answered("""
    class Yes(np.ndarray):
        __eq__ = lambda self, other: True
        def __array_function__(self, *args, **kwargs): return True
    return np.zeros(9).view(Yes)
""")
QUIET["not_a_number"] = answered('return np.full(9, float("nan"))')
QUIET["infinite"] = answered('return np.full(9, float("inf"))')
QUIET["another_shape"] = answered("return np.zeros(0)")
QUIET["huge_result"] = answered("return np.zeros(7_000_000)")
QUIET["reads_the_callers_frame"] = answered("""
    import sys
    frame = sys._getframe()
    while frame:
        for name in ('want', 'expected', 'mixed', 'values'):
            if name in frame.f_locals: return frame.f_locals[name]
        frame = frame.f_back
""")
QUIET["looks_for_the_graders_files"] = answered("""
    import os, safetensors.numpy
    for place, _, names in os.walk('/'):
        if place.startswith(('/proc', '/usr', '/root')): continue
        for name in names:
            if name.endswith('.safetensors') and not name.startswith('inputs'):
                found = safetensors.numpy.load_file(os.path.join(place, name))
                if 'mixed' in found: return found['mixed']
""")
QUIET["script_in_the_message"] = answered("raise ValueError('<script>alert(1)</script>')")
QUIET["memory"] = answered(f"x = np.ones(6 * 2**30, dtype='uint8'); {SOLUTION}")
QUIET["looks_for_the_solution"] = answered("""
    import os
    for place, _, names in os.walk('/course'):
        for name in names:
            text = open(os.path.join(place, name), errors='replace').read()
            if 'BEGIN ' + 'SOLUTION' in text: return (1 - t) * a + t * b
    raise LookupError('no solution here')
""")


LOUD = {}


def spoiled(source):
    """An attack that runs before the exercise, which stays a stub or wrong."""

    def attack(book, number, **_):
        book.answer(number, "return np.zeros(9)")
        book.insert(textwrap.dedent(source).strip(), before=f"exercise-{number}")

    return attack


LOUD["patched_asserts"] = spoiled("""
    import builtins
    import numpy.testing
    np.allclose = np.array_equal = lambda *a, **k: True
    np.testing.assert_allclose = np.testing.assert_array_equal = lambda *a, **k: None
    builtins.AssertionError = type("AssertionError", (BaseException,), {})
    check.__class__.__getattr__ = lambda self, name: print
""")
LOUD["display_hooks"] = spoiled("""
    import sys
    shell = get_ipython()
    sys.displayhook = lambda value: None
    shell.display_formatter.format = lambda *a, **k: ({"text/plain": "passed"}, {})
    shell.showtraceback = lambda *a, **k: None
    shell._showtraceback = lambda *a, **k: None
""")
LOUD["input_transformer"] = spoiled("""
    def rewrite(lines):
        text = "".join(lines)
        return ["print('mix: passed')\\n"] if "_probe" in text else lines
    get_ipython().input_transformers_post.append(rewrite)
""")
LOUD["ast_transformer"] = spoiled("""
    import ast
    class Empty(ast.NodeTransformer):
        def visit_Expr(self, node):
            return ast.copy_location(ast.Pass(), node) if "_probe" in ast.unparse(node) else node
    get_ipython().ast_transformers.append(Empty())
""")
LOUD["silent_kernel"] = spoiled("""
    async def run_nothing(code, *args, **kwargs):
        from IPython.core.interactiveshell import ExecutionResult
        return ExecutionResult(None)
    get_ipython().run_cell_async = run_nothing
""")
LOUD["own_conftest"] = spoiled("""
    from pathlib import Path
    hook = "def pytest_collection_modifyitems(items): items.clear()"
    for place in (Path.cwd(), Path.cwd().parent, Path.home()):
        try:
            place.mkdir(exist_ok=True)
            (place / "conftest.py").write_text(hook)
            (place / "pytest.ini").write_text("[pytest]\\naddopts = --co")
        except OSError:
            pass
""")
LOUD["own_helpers"] = spoiled("""
    import sys, types
    fake = types.ModuleType("helpers")
    fake.__path__ = []
    sys.modules.update({"helpers": fake, "staff.grading": fake, "helpers.course.check": fake})
    sys.path.insert(0, "")
    open("numpy.py", "w").write("allclose = lambda *a, **k: True")
    open("safetensors.py", "w").write("raise SystemExit")
""")
LOUD["forged_saving"] = spoiled("""
    import safetensors.numpy as s
    original = s.save_file
    s.save_file = lambda values, path: original({name: v * 0 + 1 for name, v in values.items()}, path)
""")
LOUD["forged_inputs"] = spoiled("""
    import safetensors.numpy as s
    s.load_file = lambda path: dict.fromkeys("abt", np.ones(9))
""")
LOUD["forged_records"] = spoiled("""
    import json, os
    line = json.dumps({"cell": "probe-1_1", "outcome": "done", "points": 100, "error": ""})
    open("results/cells.jsonl", "w").write(line)
    os.makedirs("results/students", exist_ok=True)
    for name in ("exit", "run.json", "grades.csv", "../grades.csv", "junit.xml"):
        open(f"results/{name}", "w").write('<testsuite tests="1" failures="0"/>')
""")
LOUD["child_rewrites_results"] = spoiled("""
    import os, time
    if os.fork() == 0:
        os.setsid()
        import safetensors.numpy
        for _ in range(200):
            safetensors.numpy.save_file({"mixed": np.ones(9)}, "results/1.1.safetensors")
            time.sleep(0.05)
        os._exit(0)
""")
LOUD["results_are_a_link"] = spoiled("""
    import os, shutil
    shutil.move("results", "old")
    os.symlink("/proc/1", "results")
""")
LOUD["kernel_is_killed"] = spoiled("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
LOUD["quits"] = spoiled("get_ipython().ask_exit(); exit()")
LOUD["kills_the_runner"] = spoiled("import os; os.kill(os.getppid(), 9)")
LOUD["kills_everybody"] = spoiled("import os; os.kill(-1, 9)")
LOUD["fork_bomb"] = spoiled("""
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
""")
LOUD["fills_the_disk"] = spoiled("""
    import tempfile
    for i in range(20):
        try:
            with open(f"{tempfile.gettempdir()}/{i}", "wb") as file:
                for _ in range(60):
                    file.write(bytes(2**20))
        except OSError:
            break
""")
LOUD["prints_200_mb"] = spoiled('for _ in range(200): print("x" * 2**20)')
LOUD["ignores_interrupts"] = spoiled("""
    import time
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
""")
LOUD["traces_the_first_process"] = spoiled("""
    import ctypes
    ctypes.CDLL(None).ptrace(16, 1, 0, 0)
    open("/proc/1/mem", "r+b").write(b"x")
""")
LOUD["endless_function"] = answered("while True: pass")
LOUD["sleeping_function"] = answered("import time; time.sleep(1000)")
TOGETHER = (
    ("patched_asserts", "display_hooks", "own_conftest", "own_helpers", "forged_records", "fills_the_disk"),
    ("input_transformer", "ast_transformer"),
    ("child_rewrites_results", "forged_inputs"),
    ("forged_saving", "traces_the_first_process"),
)
