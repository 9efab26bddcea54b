// Tests of what the gateway writes with parsers that were not written here,
// apart so that the product's go.mod stays short. ./test.sh runs them.
module edgegateway/tools/interop

go 1.26.0

replace edgegateway => ../..

require (
	edgegateway v0.0.0-00010101000000-000000000000
	github.com/influxdata/line-protocol/v2 v2.2.1
)

require (
	github.com/expr-lang/expr v1.17.8 // indirect
	golang.org/x/sys v0.43.0 // indirect
)
