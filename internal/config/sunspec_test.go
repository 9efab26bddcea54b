package config

import (
	"reflect"
	"testing"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// Points of a profile in models can be changed key by key, and put elsewhere.
func TestPointsInModels(t *testing.T) {
	cfg := mustLoad(t, `
-- gateway.toml --
name = "plant-a"
[bus.plc]
address = "tcp://192.168.10.5"
-- profiles/acme/sun.toml --
sunspec = [50000]
type = "i16"
[points]
power  = { model = "101|103", at = 14, scale_factor = 15, unit = "W" }
energy = { model = "101|103", at = 24, type = "u32", scale_factor = 26, scale = 0.001, unit = "kWh", kind = "counter" }
text   = { model = 1, at = 2, type = "string(32)" }
second = { model = 160, instance = 2, at = 19, scale_factor = 2 }
state  = { model = 103, at = 38, type = "u16", invalid = [0] }
-- devices.d/a.toml --
[device.sun]
profile = "acme/sun"
bus = "plc"
unit_id = 1
points.power = { scale = -1 }
points.second = { holding = 7 }
points.state = { model = 113, at = 48 }
[device.moon]
profile = "acme/sun"
bus = "plc"
unit_id = 2
sunspec = [40000, 0]
`, nil)
	sun := device(t, cfg, "sun")
	if u := sun.Unit.(modbus.Unit); !reflect.DeepEqual(u.Bases(), []uint16{50000}) {
		t.Errorf("looked for at %v", u.Bases())
	}
	if u := device(t, cfg, "moon").Unit.(modbus.Unit); !reflect.DeepEqual(u.Bases(), []uint16{40000, 0}) {
		t.Errorf("looked for at %v", u.Bases())
	}
	three := modbus.Either{101, 103}
	for name, want := range map[string]struct {
		source   devices.Source
		factored bool
		invalid  []int64
		zeroNone bool
	}{
		"power":  {modbus.ModelRegister{Models: three, At: 14, Count: 1, Factor: 15}, true, []int64{-1 << 15}, false},
		"energy": {modbus.ModelRegister{Models: three, At: 24, Count: 2, Factor: 26}, true, []int64{0xffffffff}, false},
		"text":   {modbus.ModelRegister{Models: modbus.Either{1}, At: 2, Count: 16}, false, nil, true},
		"second": {modbus.Register{Table: modbus.Holding, Address: 7, Count: 1}, false, nil, false},
		"state":  {modbus.ModelRegister{Models: modbus.Either{113}, At: 48, Count: 1}, false, []int64{0}, false},
	} {
		p := point(t, sun, name)
		if p == nil || p.Source != want.source || p.Factored != want.factored || !reflect.DeepEqual(p.Invalid, want.invalid) || p.ZeroIsNone != want.zeroNone || p.ScaleFrom != nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if p := point(t, sun, "power"); p.Scale != (mapping.Decimal{Mant: -1}) {
		t.Errorf("power has scale %v", p.Scale)
	}
}
