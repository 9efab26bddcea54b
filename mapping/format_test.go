package mapping

import (
	"errors"
	"strings"
	"testing"

	"edgegateway/broker"
	"edgegateway/devices"
)

func parsed(t *testing.T, per, text string) *Template {
	t.Helper()
	tmpl, err := ParseTemplate(text, per)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// formats are tables of all formats with all that depends on time.
func formats(t *testing.T) []Publish {
	return []Publish{
		{Name: "json", Per: "device", Topic: "a", Format: "json", Time: "unix", ID: true},
		{Name: "json ms", Per: "point", Topic: "b/{point}", Format: "json", Time: "unix_ms"},
		{Name: "influx", Per: "device", Topic: "c", Format: "influx"},
		{Name: "influx point", Per: "point", Topic: "d/{point}", Format: "influx"},
		{Name: "senml", Per: "device", Topic: "e", Format: "senml"},
		{Name: "senml point", Per: "point", Topic: "f/{point}", Format: "senml"},
		{Name: "template", Per: "device", Topic: "g", Format: "template", Template: parsed(t, "device",
			`{{time}} {{unix}} {{unix_ms}} {{unix_ns}}{{range .Points}} {{.Point}}={{.Value}}{{if .Error}}({{.Error}}){{end}}{{end}}{{clock}}`)},
		{Name: "template point", Per: "point", Topic: "h/{point}", Format: "template", Template: parsed(t, "point",
			`{"v":{{json .Value}},"t":"{{time}}"{{clock}}}`)},
	}
}

func TestFormats(t *testing.T) {
	f := newFeed(t, meter(), formats(t)...)
	f.want(f.send(devices.Online, "voltage_l1=08fd", "pf!timeout")[1:],
		`a {"time":1795215961.123,"voltage_l1":230.1,"pf":null,"errors":{"pf":"timeout"}}`,
		`b/voltage_l1 {"value":230.1,"unit":"V","time":1795215960123,"quality":"good"}`,
		`b/pf {"value":null,"time":1795215961123,"quality":"bad","error":"timeout"}`,
		`c plant-a,device=main\ meter voltage_l1=230.1,pf.error="timeout" 1795215961123000000`,
		`d/voltage_l1 plant-a,device=main\ meter voltage_l1=230.1 1795215960123000000`,
		`d/pf plant-a,device=main\ meter pf.error="timeout" 1795215961123000000`,
		`e [{"bn":"plant-a/main_meter/","bt":1795215961.123,"n":"voltage_l1","u":"V","v":230.1},{"n":"pf.error","vs":"timeout"}]`,
		`f/voltage_l1 [{"bn":"plant-a/main_meter/","bt":1795215960.123,"n":"voltage_l1","u":"V","v":230.1}]`,
		`f/pf [{"bn":"plant-a/main_meter/","bt":1795215961.123,"n":"pf.error","vs":"timeout"}]`,
		`g 2026-11-20T23:06:01.123Z 1795215961.123 1795215961123 1795215961123000000 voltage_l1=230.1 pf=null(timeout)`,
		`h/voltage_l1 {"v":230.1,"t":"2026-11-20T23:06:00.123Z"}`,
		`h/pf {"v":null,"t":"2026-11-20T23:06:01.123Z"}`)
}

// What was written under one clock and rebased to another is, in all formats,
// what would have been written under that.
func TestRebasedFormatsAreTheLaterRendering(t *testing.T) {
	clocks := []broker.Clock{{}, {Offset: exact.Offset / 2, Quality: broker.Bounded}, exact}
	for _, before := range clocks {
		for _, after := range clocks {
			f := newFeed(t, meter(), formats(t)...)
			b := f.batch(devices.Online, "pf=0001", "mode!timeout")
			var got []string
			for _, msg := range f.m.AppendMessages(nil, b, before) {
				msg.Rebase(after)
				got = append(got, msg.Topic+" "+string(msg.Payload))
			}
			g := newFeed(t, meter(), formats(t)...)
			g.clock = after
			g.want(got, g.send(devices.Online, "pf=0001", "mode!timeout")...)
		}
	}
}

func TestWhatATemplateLeavesEmptyIsNotPublished(t *testing.T) {
	f := newFeed(t, meter(), Publish{Name: "t", Per: "point", Topic: "{point}", Format: "template", Template: parsed(t, "point", `{{if gt .Number 1.0}}{{printf "%.2f" .Number}}{{end}}`)})
	f.want(f.send(devices.Online, "voltage_l1=08fd", "pf=0001")[1:], "voltage_l1 230.10")
}

// A template that fails for a value publishes nothing, and says so once; the
// other tables go on.
func TestTroubleOfATemplate(t *testing.T) {
	f := newFeed(t, meter(),
		Publish{Name: "t", Per: "point", Topic: "t/{point}", Format: "template", Template: parsed(t, "point", `x{{if eq .Number 230.1}}{{index .Tags 1}}{{end}}`)},
		Publish{Name: "v", Per: "point", Topic: "v/{point}", Format: "value"})
	f.want(f.send(devices.Online, "voltage_l1=08fd", "mode=0001")[1:], "t/mode x", "v/voltage_l1 230.1", "v/mode auto")
	if err := f.m.Trouble(); err == nil || !strings.Contains(err.Error(), "publish t: the template fails for device main") {
		t.Errorf("trouble: %v", err)
	}
	f.send(devices.Online, "voltage_l1=08fd")
	if err := f.m.Trouble(); err != nil {
		t.Errorf("told twice: %v", err)
	}
}

func TestTemplateIsBounded(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	f := newFeed(t, meter(), Publish{Name: "t", Per: "device", Topic: "t", Format: "template", Template: parsed(t, "device", "{{range .Points}}"+long+"{{end}}")})
	f.send(devices.Online, "pf=0001")
	f.want(f.send(devices.Online, "pf=0001", "mode=0001"))
	if err := f.m.Trouble(); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("trouble: %v", err)
	}
}

func TestTemplateFaults(t *testing.T) {
	for _, c := range []struct{ per, text, at, want string }{
		{"point", `a{{.Valu}}`, `.Valu`, "there is no .Valu here"},
		{"point", `{{range .Points}}{{end}}`, `.Points`, "there is no .Points here"},
		{"device", `{{.Value}}`, `.Value`, "there is no .Value here"},
		{"point", "a\n{{if}}", "{{if}}", "missing value for if"},
		{"point", `{{$x := time}}`, `time`, "time must stand alone"},
		{"point", `{{if unix}}{{end}}`, `unix`, "unix must stand alone"},
		{"point", `{{(time | len)}}`, `time`, "time must stand alone"},
		{"point", `{{range 9}}{{end}}`, `9`, "range goes over .Points and .Tags only"},
		{"point", `{{block "a" .}}{{end}}`, ``, "defines others"},
		{"point", `{{template "a"}}`, ``, "template"},
		{"device", `{{range .Points}}{{range .Points}}{{end}}{{end}}`, ``, "a range within a range"},
		{"point", ``, ``, "empty"},
		{"point", `{{json .}}`, `json .`, "json takes a value"},
	} {
		_, err := ParseTemplate(c.text, c.per)
		e, ok := errors.AsType[*TemplateError](err)
		if !ok || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
			continue
		}
		if at := c.text[e.Start:e.End]; c.at != "" && !strings.HasPrefix(at, c.at) && !strings.HasPrefix(c.at, at) {
			t.Errorf("%s: the fault is shown at %q, want %q", c.text, at, c.at)
		}
	}
}

func FuzzParseTemplate(f *testing.F) {
	f.Add("{{range .Points}}{{.Value}}{{time}}{{end}}")
	f.Add("{{printf \"%s\" (.Tags.x | json)}}\n{{/* c */}}{{with .Error}}{{.}}{{else}}{{clock}}{{end}}")
	f.Fuzz(func(t *testing.T, text string) {
		for _, per := range []string{"point", "device"} {
			tmpl, err := ParseTemplate(text, per)
			if err != nil {
				if e, ok := errors.AsType[*TemplateError](err); !ok || e.Start < 0 || e.End < e.Start || e.End > len(text) {
					t.Fatalf("%q: %#v", text, err)
				}
				continue
			}
			m, err := New(Config{Gateway: "g", Devices: []*Device{meter()}, Publish: []Publish{{Name: "t", Per: per, Topic: "{device}/{unit}/{bus}" + map[string]string{"point": "/{point}"}[per], Format: "template", Template: tmpl}}})
			if err != nil {
				continue
			}
			dev := m.devices[0].Device
			b := devices.NewBatch(dev.Device)
			b.Add(dev.Device.Points[0], []byte{1, 2}, boot)
			for _, msg := range m.AppendMessages(nil, b, exact) {
				before := string(msg.Payload)
				msg.Rebase(exact)
				if string(msg.Payload) != before {
					t.Fatalf("%q: %q became %q", text, before, msg.Payload)
				}
			}
		}
	})
}

// A unit or the URL of a bus is one level of a topic; a tag may be several.
func TestPlaceholdersInTopics(t *testing.T) {
	dev := newDevice("d", "Nem-Sıcaklık", named("Nem", Point{Type: U16, Unit: "m³/h"}))
	dev.Bus, dev.Tags = "tcp://10.0.0.5:502", map[string]string{"yer": "Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1"}
	f := newFeed(t, dev, Publish{Name: "a", Per: "point", Topic: "{yer}/{device}/{point}", Format: "value"},
		Publish{Name: "b", Per: "point", Topic: "{bus}/{unit}", Format: "value"})
	f.want(f.send(devices.Online, "Nem=0007")[1:], "Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1/Nem-Sıcaklık/Nem 7", "tcp:__10.0.0.5:502/m³_h 7")
}

func TestFormatFaults(t *testing.T) {
	x := func(name string) *Point { return named(name, Point{Type: U16}) }
	for _, c := range []struct {
		publish Publish
		points  []*Point
		want    string
	}{
		{Publish{Per: "point", Format: "template"}, nil, "needs a template"},
		{Publish{Per: "point", Topic: "{name}/{device}/{point}/set", Format: "json"}, []*Point{x("a")}, "commands arrive there"},
		{Publish{Per: "device", Topic: "{name}/{device}/_status", Format: "json"}, []*Point{x("a")}, "is both for the state of device d and for device d"},
		{Publish{Per: "point", Format: "json", Time: "iso"}, nil, "one of rfc3339, unix, unix_ms"},
		{Publish{Per: "point", Topic: "{point}", Format: "influx", Measurement: "{x}"}, []*Point{x("a")}, "{x} is not known here"},
		{Publish{Per: "device", Topic: "a", Format: "influx", Tags: map[string]string{"p": "{point}"}}, []*Point{x("a")}, "{point} is not known here"},
		{Publish{Per: "device", Topic: "a", Format: "senml"}, []*Point{x("ş"), x("ı")}, `the SenML name "g/n/_"`},
		{Publish{Per: "device", Topic: "a", Format: "senml", BaseName: "/x"}, []*Point{x("a")}, "must begin with a letter or digit"},
	} {
		c.publish.Name = "t"
		_, err := New(Config{Gateway: "g", Devices: []*Device{newDevice("d", "n", c.points...)}, Publish: []Publish{c.publish}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %s", c.publish, err, c.want)
		}
	}
}

// Each unit of the table is one that the gateway spells so, and its factor is
// exact.
func TestSenMLUnits(t *testing.T) {
	for unit, want := range map[string]string{"kWh": "J 3600000", "bar": "Pa 100000", "µg/m³": "kg/m3 0.000000001", "h": "s 3600", "%": "% 1"} {
		u := senmlUnits[unit]
		if got := u.name + " " + string(u.factor.orOne().number().append(nil)); got != want {
			t.Errorf("%s: %s, want %s", unit, got, want)
		}
	}
}
