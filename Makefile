# Every target sets up what it needs in .venv first; a second time that costs nothing.
# Another interpreter: make run PYTHON=/path/to/python3.12
.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lab notebooks gallery clean
MAKEFLAGS += --no-print-directory
# Packages of the caller's shell must not shadow those of .venv.
unexport PYTHONPATH PYTHONHOME
# Without compiled files every import of torch takes 6 s more.
unexport PYTHONDONTWRITEBYTECODE

# Tools run as "python -m": the scripts beside it do not survive a folder that is renamed.
python := .venv/bin/python

help:
	@echo "make run        invert a real photo in every model and space, into output/demo"
	@echo "make run PHOTO=cat.jpg   find the face in your own photo and invert it, into output/photos"
	@echo "make test       ruff, the tests and all notebooks with a tenth of their steps"
	@echo "make test-fast  only the tests of the lessons' functions: no subprocess, no browser"
	@echo "make lab        open JupyterLab at the notebooks (make lab ARGS=--no-browser)"
	@echo "make notebooks  execute all notebooks into output/*.html"
	@echo "make gallery    execute all notebooks and show their figures in docs/gallery.md"
	@echo "make setup      only set up .venv"
	@echo "make clean      remove .venv and caches; output and downloaded weights stay"

setup:
	@bash tools/setup.sh

run: setup
	@$(python) -m helpers $(if $(PHOTO),invert "$(PHOTO)" --noise --out output/photos,demo --out output/demo)

# Two processes of one thread each are faster than one of two; a file, and so a notebook, stays together in one of them.
# The lessons come first, in a tenth of their steps, and the longest tests next: neither process is alone at the end.
test: setup
	@status=0; export OMP_NUM_THREADS=1 COURSE_MODEL=stylegan2-cats-64; \
	$(python) -m ruff check . || status=1; \
	$(python) tools/short_lessons.py output/lessons || status=1; \
	$(python) -m pytest -p tools.quick_start -n 2 --dist loadfile --no-loadscope-reorder \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --color=no output/lessons tests || status=1; \
	exit $$status

test-fast: setup
	@OMP_NUM_THREADS=1 $(python) -m pytest -p tools.quick_start -n 2 --dist loadfile -m "not slow" tests/engine tests/lessons

lab: setup
	@$(python) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(ARGS)

# A failing notebook does not stop the others, but fails the target.
notebooks: setup
	@status=0; \
	for notebook in notebooks/*.ipynb; do \
	    [ -e "$$notebook" ] || continue; \
	    $(python) -m nbconvert --to html --execute --ExecutePreprocessor.kernel_name=python3 \
	        --ExecutePreprocessor.timeout=1800 --output-dir output "$$notebook" \
	        || { status=1; echo "$$notebook failed"; }; \
	done; \
	exit $$status

gallery: setup
	@$(python) tools/make_gallery.py $(ARGS)

clean:
	@rm -rf .venv .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
