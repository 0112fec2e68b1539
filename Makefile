# make demo    the main job on real input        make test    the tests
# make crash   power cuts, 100,000 states        (docs/crash-safety.md)
# make setup   .venv with the slipstream command  make check   lint, types, tests
# make bench   figures beside the peers        make corpus  the images for it
# make screenshots  the pages, drawn      (docs/screenshots)
# make e2e     on real firmware, in QEMU       make e2e-full  all of its cases
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup test e2e e2e-full check demo corpus bench bench-large bench-matrix bench-report crash lint
.PHONY: format clean screenshots bench-exposure bench-server

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	@touch $@

test: setup
	scripts/packages test
	$(BIN)/pytest -q -n 2 tests

# Updates, failures and power cuts in QEMU with OVMF and systemd-boot; docs/e2e.md. The subset takes
# up to 25 minutes on two cores without KVM, all of it hours. make e2e CASES="panic hang" runs those.
e2e: setup
	scripts/packages e2e
	$(BIN)/python -m e2e $(CASES)

e2e-full: setup
	scripts/packages e2e
	$(BIN)/python -m e2e --full

# The main job, end to end. make demo SOURCE=a.img TARGET=b.img runs it on any two images.
demo: setup
	scripts/packages demo
	$(BIN)/slipstream demo $(if $(SOURCE),--source "$(SOURCE)") $(if $(TARGET),--target "$(TARGET)")

# Debian release pairs in every kind of image, built once into the cache: half an hour, 22 GB.
corpus: setup
	scripts/packages bench
	$(BIN)/python -m benches.corpus $(if $(ROWS),--rows $(ROWS))

# Figures beside the peers, under 5 minutes once its images are built (3 minutes). What takes longer
# comes from the cache that make bench-matrix fills. Writes docs/benchmarks.md too.
# make bench SOURCE=a.img TARGET=b.img: for any two images. PEERS=none: ours alone.
PEERS ?= xdelta3,zstd
IMAGES := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipstream/corpus/images
bench: setup
	scripts/packages bench
ifdef SOURCE
	$(BIN)/python -m benches.pair "$(SOURCE)" "$(TARGET)" --full --peers $(PEERS)
	$(BIN)/python benches/install.py "$(SOURCE)" "$(TARGET)" --profile balanced
else
	$(BIN)/python -m benches.matrix --quick --report --rows small/ext4-1k small/squashfs-zstd
	$(BIN)/python benches/install.py $(IMAGES)/small-1.ext4-1k.img $(IMAGES)/small-2.ext4-1k.img --profile fast
endif

# The same for 1200 MiB images with a kernel; an hour where no peer is in the cache.
bench-large: setup
	scripts/packages bench
	$(BIN)/python -m benches.matrix --report --rows full/ext4-4k full/squashfs-zstd
	$(BIN)/python benches/install.py $(IMAGES)/full-1.ext4-4k.img $(IMAGES)/full-2.ext4-4k.img --profile balanced

# Every contender on every row, or on ROWS. A day or more; goes on where it was interrupted.
bench-matrix: setup
	scripts/packages bench
	$(BIN)/python -m benches.matrix --report $(if $(ROWS),--rows $(ROWS))

# docs/benchmarks.md and its plots, of what the cache knows by now.
bench-report: setup
	$(BIN)/python -m benches.report

# Power cuts everywhere: STATES distinct states of the media, and the seeded bugs. Writes
# docs/crash-safety.md.
STATES ?= 100000
crash: setup
	scripts/packages crash
	$(BIN)/python -m tests.crash --states $(STATES)

# Every page of a synthetic fleet as Chromium draws it: docs/screenshots.
screenshots: setup
	scripts/packages test
	$(BIN)/python -m tests.server.pages.screenshots

# Servers, devices and operators in any order, STEPS of them with other chances each time, then every
# seeded fault of tests/server/fleet/exposure_faults.py. Writes docs/exposure.md; ten minutes.
STEPS ?= 100000
bench-exposure: setup
	$(BIN)/python -m tests.server.fleet.test_exposure --steps $(STEPS)

# A simulated fleet against a real server process. Writes docs/server-load.md.
bench-server: setup
	$(BIN)/python -m benches.fleet --report

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
