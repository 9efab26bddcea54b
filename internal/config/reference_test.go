package config

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"edgegateway/broker/access"
	"edgegateway/configs"
)

// TestReferenceExplainsEveryKey parses reference.toml, which holds no key
// that is not known, and looks for each key that is.
func TestReferenceExplainsEveryKey(t *testing.T) {
	dir := referenceFolder(t)
	opts := testOptions(nil)
	opts.Profiles = nil // those that come with the program
	cfg, report := Load(filepath.Join(dir, "reference.toml"), opts)
	if cfg == nil {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	root, ok := parse(&source{data: string(configs.Reference)}, new(Report))
	if !ok {
		t.Fatal("reference.toml does not parse")
	}
	explained := make(map[string]bool)
	collect(root, reflect.TypeFor[rawGateway](), explained)
	for key := range knownKeys(reflect.TypeFor[rawGateway](), make(map[string]bool)) {
		if !explained[key] {
			t.Errorf("reference.toml does not hold %s", key)
		}
	}
}

// referenceFolder holds reference.toml and the files that it names.
func referenceFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "reference.toml"), string(configs.Reference))
	list, err := fs.ReadFile(configs.Examples, "examples/plc-list/plc.csv")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "plc.csv"), string(list))
	pair := newPair(t)
	passwords, err := access.SetPassword(nil, "panel", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"passwd": string(passwords), "acl": "topic read public/#",
		"credentials/aws.crt": pair.cert, "credentials/aws.key": pair.key, "office-ca.crt": pair.cert,
		"broker.crt": pair.cert, "broker.key": pair.key, "clients-ca.crt": pair.cert,
		"credentials/office.password": "secret", "credentials/azure.key": "YSBkZXZpY2Uga2V5",
	} {
		write(t, filepath.Join(dir, name), data)
	}
	return dir
}

// below returns the raw types of what a field of type f holds under names, or
// directly.
func below(f reflect.Type) (types []reflect.Type, named bool) {
	switch f {
	case reflect.TypeFor[tables[rawNode]]():
		return []reflect.Type{reflect.TypeFor[rawDevice]()}, true
	case reflect.TypeFor[tables[rawTemplate]]():
		return []reflect.Type{reflect.TypeFor[rawDevice](), reflect.TypeFor[templateKeys]()}, true
	}
	if strings.HasPrefix(f.Name(), "tables[") {
		v, _ := f.FieldByName("V")
		value, _ := v.Type.Elem().FieldByName("value")
		return []reflect.Type{value.Type.Elem()}, true
	}
	if f.Kind() == reflect.Struct && strings.HasPrefix(f.Name(), "raw") {
		return []reflect.Type{f}, false
	}
	return nil, false
}

// fieldTypes maps the keys of a raw struct to the types of their fields.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	m := make(map[string]reflect.Type)
	for key, v := range fieldsOf(reflect.New(t).Elem()) {
		m[key] = v.Type()
	}
	if t == reflect.TypeFor[rawPoint]() {
		m["write"] = reflect.TypeFor[rawWrite]()
		m["homeassistant"] = reflect.TypeFor[rawHint]()
	}
	return m
}

// knownKeys lists the keys of a raw struct and all below it, as TYPE.KEY.
func knownKeys(t reflect.Type, keys map[string]bool) map[string]bool {
	if types, named := below(t); named {
		for _, b := range types {
			knownKeys(b, keys)
		}
		return keys
	}
	for key, f := range fieldTypes(t) {
		name := t.Name() + "." + key
		if keys[name] {
			continue
		}
		keys[name] = true
		types, _ := below(f)
		for _, b := range types {
			knownKeys(b, keys)
		}
	}
	return keys
}

// collect notes which of these keys n holds.
func collect(n *node, t reflect.Type, keys map[string]bool) {
	if !n.isTable() {
		return
	}
	if types, named := below(t); named {
		collectNamed(n, types, keys)
		return
	}
	for key, f := range fieldTypes(t) {
		c := n.child(key)
		if c == nil {
			continue
		}
		keys[t.Name()+"."+key] = true
		types, named := below(f)
		if named {
			collectNamed(c, types, keys)
			continue
		}
		for _, b := range types {
			collect(c, b, keys)
		}
	}
}

func collectNamed(n *node, types []reflect.Type, keys map[string]bool) {
	for _, c := range n.keys {
		for _, b := range types {
			collect(c, b, keys)
		}
	}
}

// TestExamplesHaveNoFaults checks the example configurations, whose
// credentials are those of their users.
func TestExamplesHaveNoFaults(t *testing.T) {
	entries, err := fs.ReadDir(configs.Examples, "examples")
	if err != nil || len(entries) < 3 {
		t.Fatalf("%d examples (%v)", len(entries), err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			dir := t.TempDir()
			sub, err := fs.Sub(configs.Examples, path.Join("examples", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, sub); err != nil {
				t.Fatal(err)
			}
			_, report := Load(dir, Options{Env: func(string) (string, bool) { return "", false }, SecretsElsewhere: true})
			for _, i := range report.Issues {
				if i.Severity == Error || !strings.Contains(i.Message, dir) {
					t.Error(i.String())
				}
			}
		})
	}
}

// TestProfilesHaveNoFaults puts a device of each built-in profile on a bus, one
// of its own if it has frames.
func TestProfilesHaveNoFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("name = \"plant-a\"\n[bus.line]\naddress = \"/dev/ttyS0\"\nbaud = 9600\n")
	err := fs.WalkDir(configs.Profiles, "profiles", func(p string, _ fs.DirEntry, err error) error {
		name, ok := strings.CutSuffix(p, ".toml")
		if !ok {
			return err
		}
		name = strings.TrimPrefix(name, "profiles/")
		text, err := fs.ReadFile(configs.Profiles, p)
		device := strings.ReplaceAll(name, "/", " ")
		bus, unit := "line", "unit_id = "+string(rune('1'+strings.Count(b.String(), "unit_id")%9))+"\n"
		if strings.Contains(string(text), "[frame]") {
			bus, unit = device, ""
			b.WriteString("[bus.\"" + bus + "\"]\naddress = \"/dev/" + bus + "\"\nbaud = 9600\nprotocol = \"frames\"\n")
			if strings.Contains(string(text), "iec62056") {
				b.WriteString("format = \"7E1\"\n")
			}
		}
		b.WriteString("[device.\"" + device + "\"]\nbus = \"" + bus + "\"\nprofile = \"" + name + "\"\n" + unit)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gateway.toml"), b.String())
	_, report := Load(dir, Options{SecretsElsewhere: true})
	for _, i := range report.Issues {
		if !strings.Contains(i.Message, "read twice") && !strings.Contains(i.Message, "of its time") { // they are many for one line
			t.Error(i.String())
		}
	}
}
