package configs

import "embed"

// Reference explains every key of the configuration.
//
//go:embed reference.toml
var Reference []byte

// Examples holds whole configurations to start from, as
// examples/NAME/gateway.toml and examples/NAME/devices.d/*.toml.
//
//go:embed examples
var Examples embed.FS
