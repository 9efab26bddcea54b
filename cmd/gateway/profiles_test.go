package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"edgegateway/internal/config"
)

const ownMeter = `# Acme M1, three-phase meter. Its manual of 2020, page 7.
maker   = "Acme"
model   = "M1"
checked = "one source"
factory = { baud = 19200, format = "8E1", unit_id = 5 }
type    = "i32"
order   = "CDAB"
every   = "2s"
pause   = "10ms"
[points]
power  = { holding = 100, scale = 0.1, unit = "W" }
energy = { holding = 102, type = "u32", unit = "kWh", kind = "counter", every = "1m" }
`

// ownProfiles is a folder with profiles of one's own: a new one, one that
// replaces one that is built in, and one with faults.
func ownProfiles(t *testing.T) *site {
	s := newSite(t, "", nil)
	for name, text := range map[string]string{
		"acme/m1": ownMeter, "eastron/sdm120": strings.Replace(ownMeter, "Acme", "Eastron, changed", 2),
		"acme/bad": "[points]\na = { holding = 70000 }\n",
	} {
		writeFile(t, filepath.Join(s.config, "profiles", name+".toml"), text)
	}
	return s
}

func TestProfilesListAndSearch(t *testing.T) {
	t.Parallel()
	s := ownProfiles(t)
	list := func(args ...string) map[string]profileInfo {
		t.Helper()
		out, code := s.command("profiles", append(args, "--json")...)
		var infos []profileInfo
		if err := json.Unmarshal([]byte(out), &infos); err != nil || code != exitOK {
			t.Fatalf("profiles %v: code %d, %v:\n%s", args, code, err, out)
		}
		byName := map[string]profileInfo{}
		for _, p := range infos {
			byName[p.Name] = p
		}
		return byName
	}
	all := list("list")
	if p := all["acme/m1"]; len(all) < 60 || p.Maker != "Acme" || p.Checked != "one source" || len(p.Points) != 2 || p.File == "" {
		t.Errorf("%d profiles, one's own is %+v", len(all), p)
	}
	if p := all["eastron/sdm630"]; p.Checked != "two sources" || p.File != "" || len(p.Points) < 30 {
		t.Errorf("built in: %+v", p)
	}
	if p := all["eastron/sdm120"]; p.Maker != "Eastron, changed" {
		t.Errorf("the one that replaces one that is built in: %+v", p)
	}
	if p := all["acme/bad"]; p.Errors != 1 {
		t.Errorf("the one with faults: %+v", p)
	}
	out, talk, _ := s.talk("profiles", "list")
	for _, want := range []string{"PROFILE", "eastron/sdm630", "two sources", "built in", "FAULTY"} {
		if !strings.Contains(out, want) {
			t.Errorf("the list does not say %q", want)
		}
	}
	if !strings.Contains(talk, "rest on one source") || !strings.Contains(talk, "gateway profiles test acme/bad") {
		t.Errorf("about the list: %s", talk)
	}
	if found := list("search", "GOODWE", "soc_battery"); len(found) != 1 || found["goodwe/et"].Name == "" {
		t.Errorf("search of two words: %+v", found)
	}
	if found := list("search", "page 7"); len(found) != 2 {
		t.Errorf("search of what a comment says: %+v", found)
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"search", "nosuchthing"}, exitFailed}, {[]string{"search"}, exitUsage}, {[]string{"lst"}, exitUsage},
		{[]string{"show"}, exitUsage}, {[]string{"show", "no/such"}, exitConfig}, {[]string{"show", "./no.toml"}, exitUsage},
		{[]string{"test", "acme/bad"}, exitConfig}, {nil, exitOK},
	} {
		if out, code := s.command("profiles", c.args...); code != c.code {
			t.Errorf("profiles %v: code %d, want %d:\n%s", c.args, code, c.code, out)
		}
	}
}

func TestProfilesShow(t *testing.T) {
	s := ownProfiles(t)
	out, code := s.command("profiles", "show", "acme/m1")
	for _, want := range []string{
		"acme/m1: Acme M1, checked against one source, ", "Its manual of 2020", "baud    = 19200\n", `format  = "8E1"`, `profile = "acme/m1"`, "unit_id = 5",
		`It brings along: pause = "10ms"`, "holding 100-101  i32 CDAB  0.1", "2s", "One such device takes ", "at 19200 8E1",
	} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("code %d; it does not say %q:\n%s", code, want, out)
		}
	}
	out, _ = s.command("profiles", "show", "acme/m1", "--json")
	var sheet profileSheet
	if err := json.Unmarshal([]byte(out), &sheet); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if p := sheet.Points[1]; p.Name != "energy" || p.Source != "holding 102-103" || p.Type != "u32" || p.Kind != "counter" || p.Every != 60 || len(sheet.Plan.Requests) != 2 || sheet.Factory.Baud != 19200 {
		t.Errorf("as JSON: %+v", sheet)
	}
	if out, _ := s.command("profiles", "show", "acme/m1", "--file"); out != ownMeter {
		t.Errorf("the file is\n%s", out)
	}
	out, _ = s.command("profiles", "show", filepath.Join(s.config, "profiles", "acme", "m1.toml"))
	if !strings.Contains(out, `profile = "m1"`) || !strings.Contains(out, "once it is saved as profiles/m1.toml") {
		t.Errorf("a file somewhere:\n%s", out)
	}
}

// What show prints to save is a configuration without faults.
func TestProfilesShowLinesToSave(t *testing.T) {
	t.Parallel()
	for _, p := range config.Profiles(t.TempDir(), config.Options{}) {
		sheet, err := newProfileSheet(p)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"plant\"\n"+strings.ReplaceAll(sheet.device(), "HOST", "192.0.2.1"))
		cfg, report := config.Load(dir, config.Options{})
		if cfg == nil || len(cfg.Devices) != 1 || len(report.Issues) > 0 {
			t.Errorf("%s: %v\n%s", p.Name, report.Err(), sheet.device())
			report.WriteTo(t.Output())
		}
	}
}

func TestProfilesTest(t *testing.T) {
	s := ownProfiles(t)
	out, code := s.command("profiles", "test", filepath.Join(s.config, "profiles", "acme", "m1.toml"))
	for _, want := range []string{"power ", "holding 100-101", " W", "2 of 2 points are read back", "with 1 requests"} {
		if code != exitOK || !strings.Contains(out, want) || strings.Contains(out, "WRONG") || strings.Contains(out, "DOUBT") {
			t.Errorf("code %d; it does not say %q:\n%s", code, want, out)
		}
	}
	writeFile(t, filepath.Join(s.config, "profiles", "acme", "m2.toml"), "[points]\npower = { holding = 1, scale = 0.01, unit = \"W\" }\n")
	out, code = s.command("profiles", "test", "acme/m2", "--json")
	var r testResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitOK || !r.Right || len(r.Points) != 1 || !r.Points[0].Right || len(r.Doubts) != 3 {
		t.Errorf("code %d, %v: %+v", code, err, r)
	}
	_, talk, code := s.talk("profiles", "test", "acme/bad")
	if code != exitConfig || !strings.Contains(talk, "profiles/acme/bad.toml:2:17: error: holding 70000") {
		t.Errorf("code %d:\n%s", code, talk)
	}
	if out, code := s.command("profiles", "test", "winsen/mhz19"); code != exitOK || !strings.Contains(out, "2 of 2 points") {
		t.Errorf("one that is asked in its own way: code %d:\n%s", code, out)
	}
}
