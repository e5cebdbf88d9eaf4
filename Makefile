# make run     start IAPI on this machine: everything in one process
# make test    everything that must pass, checks included
# make check   formatting, vet, staticcheck, generated code is current, known vulnerabilities where they can be looked up
# make prove   everything at full counts, one thing after the other, with figures into docs/measured; STEPS="faults kill" for some
# make build   bin/iapi

GO       ?= go
export GOFLAGS += -buildvcs=false
TIMEOUT  ?= 15m

.PHONY: run build test check generate prove clean

run: build
	bin/iapi dev

build:
	$(GO) build -o bin/iapi ./cmd/iapi

test: check build
	GO=$(GO) TIMEOUT=$(TIMEOUT) tests/run.sh

check:
	tests/check.sh

generate:
	$(GO) generate ./...

prove: build
	tests/prove.sh

clean:
	rm -rf bin
