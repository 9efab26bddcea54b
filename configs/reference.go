package configs

import "embed"

// Reference explains every key of the configuration.
//
//go:embed reference.toml
var Reference []byte

// Examples holds whole configurations to start from, as
// examples/NAME/gateway.toml and examples/NAME/devices.d/*.toml, with what
// these read beside them.
//
//go:embed examples
var Examples embed.FS
