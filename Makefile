# Thin: meson knows how to build; this knows the few commands that people type.
.PHONY: run test build asan bench fuzz soak format clean

run:
	@$(MAKE) --no-print-directory build PROGRAMS=trireme
	@deploy/demo.sh

# -Ddebug=true: a release that can be looked into. Nothing is set up twice.
PROGRAMS = trireme trireme-bench trireme-sim
build:
	@deploy/setup.sh build
	@[ -f build/build.ninja ] || meson setup build --buildtype=release -Ddebug=true
	@ninja -C build $(PROGRAMS)

asan:
	@deploy/setup.sh build
	@[ -f build-asan/build.ninja ] || meson setup build-asan -Db_sanitize=address,undefined -Doptimization=1
	@ninja -C build-asan

test:
	@deploy/setup.sh test
	@tests/run

# What takes longer than anybody waits: thousands of seeds, kill rounds and hours of fuzzing.
soak:
	@deploy/setup.sh soak
	@tests/run --soak

fuzz:
	@deploy/setup.sh test
	@tests/run --only fuzz --fuzz-seconds 600

bench: build
	@deploy/setup.sh bench
	@bench/compare all

format:
	@deploy/setup.sh test
	@find . -path './.*' -prune -o -path './build*' -prune -o -name '*.[ch]' -print | xargs clang-format -i

clean:
	rm -rf build build-asan build-fuzz
