package homeassistant

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/mapping"
)

type register string

func (r register) String() string { return string(r) }

func point(name string, p mapping.Point) *mapping.Point {
	p.Point = &devices.Point{Name: name, Source: register("holding 0")}
	return &p
}

func decimal(s string) mapping.Decimal {
	d, err := mapping.ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return d
}

func limit(s string) *mapping.Decimal {
	d := decimal(s)
	return &d
}

func device(id, name string, points ...*mapping.Point) *mapping.Device {
	d := &mapping.Device{Device: &devices.Device{ID: id, Name: name, Bus: "rs485"}, Points: points, Maker: "Acme", Model: "M1"}
	for _, p := range points {
		d.Device.Points = append(d.Device.Points, p.Point)
	}
	return d
}

// plant has a point of every kind.
func plant(t *testing.T, publish ...mapping.Publish) *Plant {
	t.Helper()
	write := &mapping.Write{}
	modes := map[int64]string{0: "off", 1: `"au\to"`, 2: "manual"}
	u16 := func(p mapping.Point) mapping.Point { p.Type = mapping.U16; return p }
	boiler := device("boiler", "Kazan 1",
		point("power", u16(mapping.Point{Scale: decimal("0.1"), Unit: "kW"})),
		point("energy_import", mapping.Point{Type: mapping.U32, Unit: "kWh", Kind: mapping.Counter}),
		point("energy_today", mapping.Point{Type: mapping.F32, Unit: "kWh"}),
		point("pf", mapping.Point{Type: mapping.I16, Scale: decimal("0.001")}),
		point("reactive_power", u16(mapping.Point{Unit: "Mvar"})),
		point("pm2_5", u16(mapping.Point{Unit: "µg/m³"})),
		point("wind_direction", u16(mapping.Point{Unit: "°"})),
		point("water_total", u16(mapping.Point{Unit: "m³", Kind: mapping.Counter})),
		point("tank", u16(mapping.Point{Unit: "l"})),
		point("starts", u16(mapping.Point{Kind: mapping.Counter})),
		point("door", mapping.Point{Type: mapping.Bool}),
		point("pump", mapping.Point{Type: mapping.Bool, Write: write}),
		point("mode", u16(mapping.Point{Enum: modes, Write: write})),
		point("state", u16(mapping.Point{Enum: modes})),
		point("setpoint", mapping.Point{Type: mapping.I16, Scale: decimal("0.1"), Unit: "°C", Write: &mapping.Write{Min: limit("30"), Max: limit("85"), Step: limit("0.5")}}),
		point("free", mapping.Point{Type: mapping.I16, Scale: decimal("0.1"), Write: write}),
		point("fine", mapping.Point{Type: mapping.F32, Write: write}),
		point("reset", u16(mapping.Point{Write: &mapping.Write{Min: limit("1"), Max: limit("1")}})),
		point("ack", u16(mapping.Point{Enum: map[int64]string{7: "acknowledge"}, Write: write})),
		point("label", mapping.Point{Type: mapping.String, Length: 16}),
		point("title", mapping.Point{Type: mapping.String, Length: 16, Write: write}),
		point("status", u16(mapping.Point{Bits: map[int]string{0: "running", 3: "low_water", 5: "it's"}})),
		point("one", u16(mapping.Point{Bits: map[int]string{2: "valve"}, Write: write})),
		point("Nem-Sıcaklık's", mapping.Point{Type: mapping.F64, Unit: "°C"}),
		point("hidden", u16(mapping.Point{})),
	)
	p := &Plant{Gateway: "plant-a", Version: "v1", Devices: []*mapping.Device{boiler}, Buses: []string{"rs485", "tcp://10.0.0.5:502"}, Bridges: []string{"aws"}}
	m, err := mapping.New(mapping.Config{Gateway: "plant-a", Devices: p.Devices, Publish: publish})
	if err != nil {
		t.Fatal(err)
	}
	p.Mapper = m
	return p
}

func (p *Plant) point(name string) *mapping.Point {
	for _, pt := range p.Devices[0].Points {
		if pt.Name == name {
			return pt
		}
	}
	return nil
}

func settings(p *Plant) *Settings {
	return &Settings{Prefix: "homeassistant", Birth: "homeassistant/status", Hints: map[*mapping.Point]Hint{p.point("hidden"): {Hide: true}}}
}

// A rendering is a template with what it is given: the payload of a state, or
// the value of a command.
type rendering struct {
	Template string `json:"template"`
	Payload  string `json:"payload"`
	Value    any    `json:"value,omitempty"`
	State    string `json:"state,omitempty"`
}

// check has testdata/check.py validate announcements and render templates.
func check(t *testing.T, list []Announcement, render ...rendering) (faults, rendered []string) {
	t.Helper()
	in, err := json.Marshal(map[string]any{"announcements": list, "render": render})
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := exec.Command("/usr/bin/python3", "testdata/check.py") // Debian's, which has jsonschema and jinja2 beside it
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	var result struct{ Faults, Rendered []string }
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	return result.Faults, result.Rendered
}

func tables(t *testing.T) map[string][]mapping.Publish {
	return map[string][]mapping.Publish{
		"default":          nil,
		"value":            {{Name: "v", Per: "point", Topic: "v/{point}", Format: "value"}, {Name: "i", Per: "point", Topic: "i/{point}", Format: "influx"}},
		"json of a device": {{Name: "d", Per: "device", Topic: "d/{device}", Format: "json", Time: "unix"}},
	}
}

func TestDiscoveryPassesTheSchema(t *testing.T) {
	for name, publish := range tables(t) {
		p := plant(t, publish...)
		s := settings(p)
		s.Expires, s.Area = 30*time.Second, "{bus}"
		list, problems := Discover(s, p)
		if len(problems) > 0 || len(list) != 2 {
			t.Errorf("%s: %d messages, problems %v", name, len(list), problems)
		}
		list[1].Payload.Components["gone"] = &Component{Platform: "sensor"}
		faults, _ := check(t, list)
		for _, f := range faults {
			t.Errorf("%s: %s", name, f)
		}
		ids := map[string]bool{}
		for _, a := range list {
			for key, c := range a.Payload.Components {
				if c.UniqueID != "" && ids[c.UniqueID] || strings.Contains(key, "hidden") {
					t.Errorf("%s: %s has the id %s", name, key, c.UniqueID)
				}
				ids[c.UniqueID] = true
			}
		}
	}
}

// The schema is one that can refuse.
func TestSchemaRefuses(t *testing.T) {
	p := plant(t)
	var names []string
	var all []Announcement
	for name, spoil := range map[string]func(a *Announcement, c map[string]*Component){
		"a unit that goes with no voltage":  func(a *Announcement, c map[string]*Component) { c["power"].DeviceClass = "voltage" },
		"energy that is a measurement":      func(a *Announcement, c map[string]*Component) { c["energy_import"].StateClass = measurement },
		"a sensor without an id":            func(a *Announcement, c map[string]*Component) { c["power"].UniqueID = "" },
		"a wildcard":                        func(a *Announcement, c map[string]*Component) { c["power"].StateTopic = "a/#" },
		"a topic with a space":              func(a *Announcement, c map[string]*Component) { a.Topic = "homeassistant/device/a b/config" },
		"a platform that is not":            func(a *Announcement, c map[string]*Component) { c["power"].Platform = "sensors" },
		"a switch that cannot be commanded": func(a *Announcement, c map[string]*Component) { c["pump"].CommandTopic = "" },
		"options beside a unit":             func(a *Announcement, c map[string]*Component) { c["state"].Unit = "V" },
		"a sensor that configures":          func(a *Announcement, c map[string]*Component) { c["power"].Category = "config" },
		"a template without its end":        func(a *Announcement, c map[string]*Component) { c["power"].ValueTemplate = "{{ value }} {{ x" },
		"a device without identifiers":      func(a *Announcement, c map[string]*Component) { a.Payload.Device.Identifiers = nil },
	} {
		list, _ := Discover(settings(p), p)
		spoil(&list[1], list[1].Payload.Components)
		names, all = append(names, name), append(all, list[1])
	}
	faults, _ := check(t, all)
	for i, name := range names {
		if !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, strconv.Itoa(i)+": ") }) {
			t.Errorf("%s: no fault was found", name)
		}
	}
}

// An amount that begins anew each day must not count as given back.
func TestComputedAmountsBeginAnew(t *testing.T) {
	meter := &mapping.Point{Point: &devices.Point{Name: "meter"}, Type: mapping.U32, Kind: mapping.Counter}
	for text, want := range map[string]string{
		"daily(meter)": increasing, "hourly(meter) / 2": increasing, "last_day(meter)": "", "meter * 2": total,
	} {
		program, err := mapping.Compile(text, []*mapping.Point{meter})
		if err != nil {
			t.Fatal(err)
		}
		if got := stateClass("energy", mapping.NewComputed("x", program)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestClasses(t *testing.T) {
	p := plant(t)
	list, _ := Discover(settings(p), p)
	for key, want := range map[string]string{
		"power": "sensor power kW measurement", "energy_import": "sensor energy kWh total_increasing", "energy_today": "sensor energy kWh total",
		"pf": "sensor power_factor  measurement", "reactive_power": "sensor  Mvar measurement", "pm2_5": "sensor pm25 μg/m³ measurement",
		"wind_direction": "sensor wind_direction ° measurement_angle", "water_total": "sensor water m³ total_increasing",
		"tank": "sensor volume_storage L measurement", "starts": "sensor   total_increasing", "door": "binary_sensor door  ", "pump": "switch   ",
		"mode": "select   ", "state": "sensor enum  ", "setpoint": "number temperature °C ", "reset": "button   ", "ack": "button   ",
		"label": "sensor   ", "title": "text   ", "status_running": "binary_sensor running  ", "status_low_water": "binary_sensor problem  ", "one_valve": "switch   ",
	} {
		c := list[1].Payload.Components[key]
		if c == nil {
			t.Errorf("%s is not there", key)
			continue
		}
		if got := strings.Join([]string{c.Platform, c.DeviceClass, c.Unit, c.StateClass}, " "); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	c := list[1].Payload.Components
	if s := c["setpoint"]; *s.Min != "30" || *s.Max != "85" || *s.Step != "0.5" {
		t.Errorf("setpoint: %s to %s by %s", *s.Min, *s.Max, *s.Step)
	}
	if s := c["free"]; *s.Min != "-3276.8" || *s.Max != "3276.7" || *s.Step != "0.1" {
		t.Errorf("free: %s to %s by %s", *s.Min, *s.Max, *s.Step)
	}
	if c["power"].EntityID != "sensor.plant_a_kazan_1_power" || c["power"].UniqueID != "plant-a_boiler.power" || *c["power"].Precision != 1 {
		t.Errorf("power: %+v", c["power"])
	}
	if d := list[1].Payload.Device; d.Name != "Kazan 1" || d.Manufacturer != "Acme" || d.Via != "plant-a" || list[1].Topic != "homeassistant/device/plant-a_boiler/config" {
		t.Errorf("device %+v on %s", d, list[1].Topic)
	}
}

// What the mapper publishes, read by the value templates, is what Home
// Assistant is to show; and a null is "None", which it takes for unknown.
func TestStatesAreRead(t *testing.T) {
	raw := map[string][]byte{
		"power": {0x09, 0x01}, "door": {1}, "pump": {0}, "mode": {0, 1}, "state": {0, 2}, "setpoint": {0xff, 0xff}, "label": []byte("caf\xc3\xa9\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"status": {0, 8}, "one": {0, 4}, "Nem-Sıcaklık's": {0x40, 0x37, 0, 0, 0, 0, 0, 0},
	}
	want := map[string]string{
		"power": "230.5", "mode": `"au\to"`, "state": "manual", "setpoint": "-0.1", "label": "café", id("Nem-Sıcaklık's"): "23",
		"status_running": "False", "status_low_water": "True", id("status", "it's"): "False", "one_valve": "True",
	}
	for name, publish := range tables(t) {
		p := plant(t, publish...)
		list, _ := Discover(settings(p), p)
		components := list[1].Payload.Components
		b := devices.NewBatch(p.Devices[0].Device)
		bad := devices.NewBatch(p.Devices[0].Device)
		for _, pt := range p.Devices[0].Points {
			if r, ok := raw[pt.Name]; ok {
				b.Add(pt.Point, r, 1e9)
				bad.Fail(pt.Point, devices.ErrTimeout, 2e9)
			}
		}
		for _, batch := range []*devices.Batch{b, bad} {
			states := map[string]string{}
			for _, msg := range p.Mapper.AppendMessages(nil, batch, broker.Clock{Quality: broker.Exact}) {
				states[msg.Topic] = string(msg.Payload)
			}
			var keys []string
			var renderings []rendering
			for key, c := range components {
				if _, there := want[key]; there || key == "door" || key == "pump" {
					keys = append(keys, key)
					renderings = append(renderings, rendering{Template: c.ValueTemplate, Payload: states[c.StateTopic]})
				}
			}
			_, rendered := check(t, nil, renderings...)
			for i, key := range keys {
				c, expect := components[key], want[key]
				switch key {
				case "door":
					expect = c.PayloadOn
				case "pump":
					expect = c.StateOff
				}
				if batch == bad {
					expect = "None"
					if name == "value" {
						expect = "" // the bare value has no word for it
					}
					if strings.HasPrefix(key, "status") || key == "one_valve" {
						expect = "None"
					}
				}
				if rendered[i] != expect {
					t.Errorf("%s: %s: %s of %q is %q, want %q", name, key, c.ValueTemplate, renderings[i].Payload, rendered[i], expect)
				}
			}
		}
	}
}

// An object that does not tell of a point leaves its entity as it is.
func TestAbsentMembersChangeNothing(t *testing.T) {
	p := plant(t, tables(t)["json of a device"]...)
	list, _ := Discover(settings(p), p)
	c := list[1].Payload.Components
	const payload = `{"time":1,"other":2}`
	_, rendered := check(t, nil, rendering{Template: c["power"].ValueTemplate, Payload: payload}, rendering{Template: c["state"].ValueTemplate, Payload: payload, State: "manual"},
		rendering{Template: c["status_running"].ValueTemplate, Payload: payload})
	if want := []string{"", "manual", ""}; !slices.Equal(rendered, want) {
		t.Errorf("%q, want %q", rendered, want)
	}
}

// What the command templates make of what people choose is a command that the
// gateway carries out as they meant it.
func TestCommandsAreUnderstood(t *testing.T) {
	for _, expires := range []time.Duration{0, 30 * time.Second} {
		p := plant(t)
		s := settings(p)
		s.Expires = expires
		list, _ := Discover(s, p)
		c := list[1].Payload.Components
		type command struct {
			key   string
			value any
			want  string
		}
		commands := []command{
			{"pump", c["pump"].PayloadOn, "true"}, {"pump", c["pump"].PayloadOff, "false"}, {"mode", `"au\to"`, `"au\to"`}, {"setpoint", 55.5, "55.5"}, {"setpoint", 40, "40"},
			{"reset", "PRESS", "1"}, {"ack", "PRESS", "acknowledge"}, {"title", `a "b" ğ`, `a "b" ğ`}, {"one_valve", "true", `{"valve":true}`},
		}
		var renderings []rendering
		for _, x := range commands {
			renderings = append(renderings, rendering{Template: c[x.key].CommandTemplate, Value: x.value})
		}
		_, rendered := check(t, nil, renderings...)
		for i, x := range commands {
			cmd, err := p.Mapper.Command(&broker.Message{Topic: c[x.key].CommandTopic, Payload: []byte(rendered[i])})
			if err != nil {
				t.Errorf("%s: %s: %v", x.key, rendered[i], err)
				continue
			}
			if got := cmd.Sets[0].Value.String(); got != x.want {
				t.Errorf("%s: %s sets %s, want %s", x.key, rendered[i], got, x.want)
			}
			if want := time.Unix(1795215990, 0); expires > 0 && !cmd.Expires.Equal(want) || expires == 0 && !cmd.Expires.IsZero() {
				t.Errorf("%s: %s expires %v", x.key, rendered[i], cmd.Expires)
			}
		}
	}
}

func TestAvailability(t *testing.T) {
	p := plant(t)
	list, _ := Discover(settings(p), p)
	a := list[1].Payload
	if a.AvailabilityMode != "all" || len(a.Availability) != 2 || a.Availability[0].Topic != "plant-a/_status" || a.Availability[1].Topic != "plant-a/Kazan 1/_status" {
		t.Errorf("%+v %s", a.Availability, a.AvailabilityMode)
	}
	var renderings []rendering
	for _, payload := range []string{`{"status":"online","time":"x"}`, `{"status":"stale"}`, `{"status":"offline"}`, `{"status":"maintenance"}`} {
		renderings = append(renderings, rendering{Template: a.Availability[1].Template, Payload: payload})
	}
	if _, got := check(t, nil, renderings...); !slices.Equal(got, []string{"online", "offline", "offline", "offline"}) {
		t.Errorf("%q", got)
	}
}

func TestProblems(t *testing.T) {
	p := plant(t, mapping.Publish{Name: "i", Per: "point", Topic: "i/{point}", Format: "influx"})
	list, problems := Discover(settings(p), p)
	if len(list) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Text, "24 of 25 points of device boiler") {
		t.Errorf("%d messages, %v", len(list), problems)
	}
	p = plant(t)
	s := settings(p)
	s.Devices = []string{"other*"}
	if list, _ := Discover(s, p); len(list) != 1 {
		t.Errorf("%d messages, want that of the gateway only", len(list))
	}
}

func TestHints(t *testing.T) {
	p := plant(t)
	s := settings(p)
	s.Node, s.DeviceName = "old name", "{name} {device}"
	s.Hints[p.point("door")] = Hint{Name: "Kapı", Class: "garage_door", Icon: "mdi:garage", Category: "config", Disabled: true}
	s.Hints[p.point("status")] = Hint{Name: "Burner"}
	s.Hints[p.point("energy_today")] = Hint{Class: "energy_storage"}
	list, _ := Discover(s, p)
	c := list[1].Payload.Components
	if d := c["door"]; d.Name != "Kapı" || d.DeviceClass != "garage_door" || d.Icon != "mdi:garage" || d.Category != "" || d.Enabled == nil || *d.Enabled || d.EntityID != "binary_sensor.old_name_kazan_1_kapi" {
		t.Errorf("door: %+v", d)
	}
	if c["status_low_water"].Name != "Burner low water" || c["energy_today"].StateClass != measurement || list[1].Payload.Device.Name != "plant-a Kazan 1" {
		t.Errorf("%+v %+v", c["status_low_water"], c["energy_today"])
	}
	if !strings.HasPrefix(list[1].Topic, "homeassistant/device/old_name_boiler_") { // the blank is in the hash
		t.Errorf("topic %s", list[1].Topic)
	}
	if faults, _ := check(t, list); len(faults) > 0 {
		t.Errorf("%q", faults)
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, keys := range [][]string{{"a b"}, {"a_b"}, {"a", "b"}, {"a-b"}, {"ş"}, {"s"}, {"Ş"}, {"日"}, {"本"}, {"a.b"}, {"a b", ""}, {"a", " b"}} {
		got, all := id(keys...), strings.Join(keys, "|")
		if strings.ContainsFunc(got, func(r rune) bool { return r > 127 || strings.ContainsRune(" ./+#", r) }) {
			t.Errorf("%q: %s", keys, got)
		}
		if other, taken := seen[got]; taken && other+all != "a_ba|b" { // key parts are joined by what they may hold themselves
			t.Errorf("%q and %q are both %s", other, all, got)
		}
		seen[got] = all
	}
	if slug("Nem-Sıcaklık °C") != "nem_sicaklik_degc" || title("voltage_l1") != "Voltage L1" || title("Nem-Sıcaklık") != "Nem-Sıcaklık" {
		t.Errorf("%s %s", slug("Nem-Sıcaklık °C"), title("voltage_l1"))
	}
}
