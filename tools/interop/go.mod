// Tests of the gateway with parsers and clients that were not written here,
// apart so that the product's go.mod stays short. ./test.sh runs them.
module edgegateway/tools/interop

go 1.26.0

replace edgegateway => ../..

require (
	edgegateway v0.0.0-00010101000000-000000000000
	github.com/eclipse/paho.golang v0.23.0
	github.com/eclipse/paho.mqtt.golang v1.5.1
	github.com/influxdata/line-protocol/v2 v2.2.1
)

require (
	github.com/expr-lang/expr v1.17.8 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/klauspost/compress v1.20.4 // indirect
	golang.org/x/net v0.44.0 // indirect
	golang.org/x/sync v0.17.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
)
