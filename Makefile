# Every target is a command that can be read here and typed by hand. `make` alone lists them.
#
# A fresh machine needs Rust, Python 3 with pip and a C++ compiler. Downloads go into one ignored folder (.cache, or
# UNSWAG_CACHE to share it between clones); scripts/fetch says what it takes.

CACHE := $(or $(UNSWAG_CACHE),.cache)
TARGET := $(or $(CARGO_TARGET_DIR),target)
UNSWAG := $(TARGET)/release/unswag
LOCK_PLUGINS := $(UNSWAG) plugin add --bundled $(TARGET)/release/libunswag_delhi.so
SMOLLM2 := $(CACHE)/models/SmolLM2-135M-Instruct
SECONDS_EACH ?= 60
PREFIX ?= $(HOME)/.local
export LIBTORCH ?= $(abspath $(CACHE)/libtorch)

.DEFAULT_GOAL := help
.PHONY: help build torch programs install demo test venv libtorch bench bench-surgery bench-train bench-compare fuzz lint clean-cache

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

build: ## Build target/release/unswag and the plugins, and lock the plugins' hashes
	cargo build --release --package unswag --package unswag-delhi
	$(LOCK_PLUGINS)

torch: libtorch ## Build target/release/unswag-torch, which unswag becomes to train
	cargo build --release --package unswag-torch-cli

# In one call: apart, the two differ in a feature of a build script, and blake3 and all that hashes with it are compiled twice.
programs: libtorch
	cargo build --release --package unswag --package unswag-delhi --package unswag-torch-cli
	$(LOCK_PLUGINS)

# The programs lie together, since unswag looks for unswag-torch and for its bundled plugins beside itself and nowhere else.
install: programs ## Install unswag, unswag-torch and the plugins under PREFIX (~/.local), with PREFIX/bin/unswag for PATH
	install -d $(PREFIX)/bin $(PREFIX)/lib/unswag
	install $(UNSWAG) $(UNSWAG)-torch $(TARGET)/release/libunswag_delhi.so $(PREFIX)/lib/unswag
	$(PREFIX)/lib/unswag/unswag plugin add --replace --bundled $(PREFIX)/lib/unswag/libunswag_delhi.so
	ln -sfn ../lib/unswag/unswag $(PREFIX)/bin/unswag
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "$(PREFIX)/bin is not on PATH: export PATH=\"$(PREFIX)/bin:\$$PATH\"";; esac

demo: programs $(SMOLLM2)/model.safetensors ## Apply the Delhi plugin to SmolLM2-135M, train the result and generate text
	scripts/fetch shakespeare
	$(UNSWAG) surgery --plugin delhi $(SMOLLM2)/model.safetensors -o $(SMOLLM2)-delhi --force
	$(UNSWAG) verify $(SMOLLM2)-delhi
	rm -rf $(CACHE)/demo
	$(UNSWAG) train $(SMOLLM2)-delhi --data "$(CACHE)/data/shakespeare/*.txt" --block-size 256 --max-steps 30 --lora-r 16 \
	  --lora-alpha 32 --learning-rate 1e-3 --logging-steps 5 -o $(CACHE)/demo
	$(UNSWAG) generate $(SMOLLM2)-delhi --adapter $(CACHE)/demo/adapter --prompt "Shall I compare thee" --max-new-tokens 32

$(UNSWAG):
	$(MAKE) --no-print-directory build

$(SMOLLM2)/model.safetensors: | $(UNSWAG)
	scripts/fetch smollm2
	$(UNSWAG) import $(SMOLLM2).Q4_1.gguf -o $(SMOLLM2)

# The plain build comes first because tests run the program and load the plugins, which `cargo test` alone does not promise
# to build; with the tests in the same call, nothing is compiled twice.
test: venv $(SMOLLM2)/model.safetensors ## Run every test
	scripts/fetch smollm2 shakespeare libtorch
	cargo build --workspace --lib --bins --tests
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace; else cargo test --workspace --lib --bins --tests; fi
	cargo test --workspace --doc

lint: libtorch ## Check the formatting, clippy on every target, licences and bans
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/deny

venv: ## Lay down the Python environment that the tests compare with (about 700 MB to fetch)
	scripts/fetch venv

libtorch: ## Lay down the view of libtorch that the engine builds against (LIBTORCH, by default .cache/libtorch)
	scripts/fetch libtorch

bench: bench-surgery bench-train ## Measure everything (two hours, 10 GB of scratch)

bench-surgery: build venv $(SMOLLM2)/model.safetensors ## Measure documents, loading, Delhi's kernels, and whole surgeries against cp (10 GB of scratch)
	cargo bench --package unswag-graph --package unswag-loader --package unswag-sdk
	UNSWAG_BENCH_PLUGIN=$(abspath $(TARGET)/release/libunswag_delhi.so) cargo bench --package unswag-loader
	$(CACHE)/venv/bin/python kernels/benches/compare.py
	tests/bench/surgery.py $(UNSWAG) $(SMOLLM2) $(CACHE)/bench

bench-train: programs venv $(SMOLLM2)/model.safetensors ## Measure training: the demo, kernels, optimizers, runs against PEFT, what Delhi costs (an hour)
	@git log -1 --format='commit %h'; grep -m1 'model name' /proc/cpuinfo; uptime
	start=$$(date +%s); $(MAKE) --no-print-directory demo && echo "make demo, built: $$(($$(date +%s) - start)) s"
	$(CACHE)/venv/bin/python kernels/benches/compare_attention.py
	$(CACHE)/venv/bin/python kernels/benches/compare_optim.py
	cargo bench --package unswag-pager --bench paged_step
	tests/bench/train.py $(UNSWAG) $(SMOLLM2) $(CACHE)/data/shakespeare/hamlet_gut.txt $(CACHE)/venv/bin/python --seq 512 2048 --steps 3
	tests/bench/train.py $(UNSWAG) $(SMOLLM2) $(CACHE)/data/shakespeare/hamlet_gut.txt $(CACHE)/venv/bin/python --seq 8192 --steps 2 \
	  --dtype bfloat16
	head -c 12000 $(CACHE)/data/shakespeare/macbeth_gut.txt >$(CACHE)/tmp/held-out.txt
	tests/bench/delhi.py $(UNSWAG) $(SMOLLM2) $(CACHE)/data/shakespeare/hamlet_gut.txt $(CACHE)/tmp/held-out.txt --block-size 128
	$(CACHE)/venv/bin/python tests/bench/ungated.py $(UNSWAG) $(SMOLLM2) $(CACHE)/data/shakespeare/hamlet_gut.txt \
	  $(CACHE)/data/shakespeare/othello_gut.txt $(CACHE)/tmp/held-out.txt

bench-compare: programs $(SMOLLM2)/model.safetensors ## Compare this build with that of another commit, BASE=COMMIT, in pairs (15 minutes)
	@test -n "$(BASE)" || { echo "make bench-compare: name the commit to compare with: make bench-compare BASE=COMMIT" >&2; exit 2; }
	scripts/fetch shakespeare
	tests/bench/compare_commits.py $(UNSWAG) $(BASE) $(SMOLLM2) $(CACHE)/data/shakespeare/hamlet_gut.txt $(CACHE) $(PAIRS:%=--pairs %) $(if $(ONLY),--only "$(ONLY)")

fuzz: ## Fuzz every target for SECONDS_EACH seconds: cargo-fuzz on nightly where installed, else by mutation
	scripts/fuzz $(SECONDS_EACH)

clean-cache: ## Remove everything that was fetched or made from it
	rm -rf -- "$(CACHE)"
