# make demo    the main job on real input        make test    the tests
# make setup   .venv with the slipstream command  make check   lint, types, tests
# make bench   figures beside the peers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup test check demo bench bench-large lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	@touch $@

test: setup
	scripts/packages test
	$(BIN)/pytest -q -n 2 tests

# The main job, end to end. make demo SOURCE=a.img TARGET=b.img runs it on any two images.
demo: setup
	scripts/packages demo
	$(BIN)/slipstream demo $(if $(SOURCE),--source "$(SOURCE)") $(if $(TARGET),--target "$(TARGET)")

# Figures beside the peers, for the Debian pair of the demonstration: about 5 minutes.
# make bench SOURCE=a.img TARGET=b.img: for any two images. PEERS=none: ours alone.
# make bench-large: 1200 MiB images with a kernel; an hour with the peers.
PEERS ?= xdelta3,zstd
bench: setup
	scripts/packages bench demo
ifdef SOURCE
	$(BIN)/python benches/pair.py "$(SOURCE)" "$(TARGET)" --full --peers $(PEERS)
	$(BIN)/python benches/install.py "$(SOURCE)" "$(TARGET)" --profile balanced
else
	$(BIN)/python benches/debian.py --peers $(PEERS)
endif

bench-large: setup
	scripts/packages bench demo
	$(BIN)/python benches/debian.py --large --peers $(PEERS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
