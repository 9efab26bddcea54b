package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// A Profile is a device map with what it says of itself.
type Profile struct {
	Name    string // eastron/sdm630
	File    string // where it was read; "" if it is built in
	Text    string // the whole file
	Comment string // above its first key: what it is for, its sources and doubts
	Maker   string
	Model   string
	Checked string // one of Checks; "" if it does not say
	Factory Factory

	// Fingerprint tells such devices from all others; nil: there is none.
	Fingerprint *Fingerprint

	// Bus is one as such devices are on, at factory settings, and holds one of
	// them: Device. Its address means nothing.
	Bus    *Bus
	Device *mapping.Device
}

// Checks are what a profile's facts may rest on, the weakest first.
var Checks = []string{"one source", "two sources", "hardware"}

// A Factory is what a maker sets devices to; zero fields are not known.
type Factory struct {
	Baud   int    `json:"baud,omitempty"`
	Format string `json:"format,omitempty"`
	UnitID int    `json:"unit_id,omitempty"`
	Port   int    `json:"port,omitempty"` // of TCP; 0: it is on a serial line, or that is not known
}

// A Fingerprint is a register by whose content a kind of device is known.
type Fingerprint struct {
	Point  *mapping.Point
	ranges []span64 // numbers it may hold
	texts  []string // or texts
}

// span64 is the numbers first to last.
type span64 struct{ first, last int64 }

// Matches reports whether raw, as it was read from the register, is that of
// such a device, and what it says.
func (f *Fingerprint) Matches(raw []byte) (says string, ok bool) {
	v, err := mapping.Decode(f.Point, raw)
	if err != nil || v.IsNull() {
		return "", false
	}
	says = v.String()
	if n, err := strconv.ParseInt(says, 10, 64); err == nil && len(f.texts) == 0 {
		return says, slices.ContainsFunc(f.ranges, func(s span64) bool { return s.first <= n && n <= s.last })
	}
	return says, slices.Contains(f.texts, says)
}

// about is what the builder of a device keeps of what it says of itself.
type about struct {
	maker, model, checked string
	factory               Factory
	fingerprint           *Fingerprint
}

// readAbout reads what a device, mostly its profile, says of its kind.
func (d *deviceBuilder) readAbout() {
	raw := &d.raw.rawAbout
	a := about{maker: raw.Maker.V, model: raw.Model.V}
	a.checked = d.choice(raw.Checked, "", Checks...)
	raw.Factory.UnitID.within(d.binder, 0, 255, "unit_id")
	raw.Factory.Port.within(d.binder, 1, 65535, "port")
	raw.Factory.Baud.within(d.binder, 50, 4_000_000, "baud")
	a.factory = Factory{
		Baud: int(raw.Factory.Baud.V), Format: raw.Factory.Format.V,
		UnitID: int(raw.Factory.UnitID.V), Port: int(raw.Factory.Port.V),
	}
	if f := raw.Factory.Format; f.set() {
		if _, err := serial.ParseFormat(f.V); err != nil {
			d.errorAt(f.at, "%v", err)
		}
	}
	if raw.Fingerprint.set() {
		a.fingerprint = d.readFingerprint(&raw.Fingerprint)
	}
	d.abouts[d.dev] = a
}

// readFingerprint returns nil if it has faults, which are reported.
func (d *deviceBuilder) readFingerprint(raw *rawFingerprint) *Fingerprint {
	before := d.Errors()
	if !raw.Input.set() && !raw.Holding.set() {
		d.errorKey(raw.at, "fingerprint needs holding = N or input = N, the register that tells such devices from others")
		return nil
	}
	p := &pointBuilder{deviceBuilder: d, point: new(mapping.Point), name: "fingerprint", raw: &rawPoint{here: raw.here, Input: raw.Input, Holding: raw.Holding}}
	p.raw.Type = raw.Type
	if !raw.Type.set() {
		p.raw.Type = text{here: raw.here, V: "u16"} // not what the points of the profile inherit
	}
	if !p.locate() || !p.readType(true) {
		return nil
	}
	f := &Fingerprint{}
	for _, n := range raw.Is.list() {
		f.add(d.binder, n, p.point.Type)
	}
	if len(f.ranges)+len(f.texts) == 0 && d.Errors() == before {
		d.errorKey(raw.at, `fingerprint needs is = [71, "1648-1653"], what the register holds`)
	}
	if d.Errors() > before {
		return nil
	}
	p.point.Point = &devices.Point{Name: p.name, Source: p.source()}
	f.Point = p.point
	return f
}

// add takes one of the contents by which a device is known.
func (f *Fingerprint) add(b *binder, n *node, typ mapping.Type) {
	switch v := n.value.(type) {
	case int64:
		f.ranges = append(f.ranges, span64{v, v})
	case string:
		if typ == mapping.String {
			f.texts = append(f.texts, v)
			return
		}
		low, high, _ := strings.Cut(v, "-")
		first, err := strconv.ParseInt(low, 0, 64)
		last, err2 := strconv.ParseInt(cmp.Or(high, low), 0, 64)
		if err != nil || err2 != nil || first > last {
			b.errorAt(n, `%q is no number and no range of numbers such as "71-73"`, v)
			return
		}
		f.ranges = append(f.ranges, span64{first, last})
	default:
		b.errorAt(n, "this is %s; a register is known by numbers, by ranges such as \"71-73\", or by texts", n.kind())
	}
}

// Profiles returns all profiles there are: those of the configuration at path
// (a folder or a file, which need not exist) and those built in, by their
// names. Those with faults are left out.
func Profiles(path string, opts Options) []*Profile {
	var list []*Profile
	for _, name := range newProfileLoader(path, opts).profileNames() {
		if p, _ := LoadProfile(path, name, opts); p != nil {
			list = append(list, p)
		}
	}
	return list
}

// ProfileNames returns the names of all profiles, also of those with faults.
func ProfileNames(path string, opts Options) []string {
	return newProfileLoader(path, opts).profileNames()
}

// LoadProfile reads one profile, of the configuration at path or built in. It
// is nil if it has faults, or is not there, as the report says.
func LoadProfile(path, name string, opts Options) (*Profile, *Report) {
	l := newProfileLoader(path, opts)
	p := l.finishProfile(name, l.readProfile(&node{value: name}, name))
	if p != nil && len(l.cfg.Files) > 0 {
		p.File = filepath.Join(l.dir, filepath.FromSlash(l.cfg.Files[0]))
	}
	return p, l.Report
}

// LoadProfileFile reads a profile from a file that need not be where profiles
// are looked for. Its name is that of the file.
func LoadProfileFile(file string, opts Options) (*Profile, *Report) {
	l := newProfileLoader(filepath.Dir(file), opts)
	base := filepath.Base(file)
	p := l.finishProfile(strings.TrimSuffix(base, ".toml"), l.parseProfile(os.DirFS(l.dir), base, file))
	if p != nil {
		p.File = file
	}
	return p, l.Report
}

func newProfileLoader(path string, opts Options) *loader {
	l := newLoader(opts)
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	l.setDir(path)
	return l
}

// finishProfile makes the profile of what was read of it, by way of a
// configuration with one device. It is nil after errors.
func (l *loader) finishProfile(name string, n *node) *Profile {
	defer l.sort()
	if n == nil {
		return nil
	}
	l.profiles[name] = n
	text := "name = \"profiles\"\n" + busFor(n) + fmt.Sprintf("profile = %q\n", name)
	root, ok := parse(&source{name: "profiles", data: text}, l.Report)
	if !ok {
		return nil
	}
	l.readGateway(root)
	if l.Errors() > 0 {
		return nil
	}
	dev := l.cfg.Devices[0]
	a := l.abouts[dev]
	return &Profile{
		Name: name, Text: n.src.data, Comment: headComment(n.src.data), Maker: a.maker, Model: a.model, Checked: a.checked,
		Factory: a.factory, Fingerprint: a.fingerprint, Bus: l.cfg.Buses[0], Device: dev,
	}
}

// busFor returns the bus for a device of a profile and the beginning of the
// device, as TOML: a serial line at the factory's speed, or 9600 baud where
// that is not known, unless it has a port of the network.
func busFor(profile *node) string {
	number := func(key string, least, most, other int64) int64 { // what is wrong is reported elsewhere
		if c := profile.child("factory").child(key); c != nil {
			if v, ok := c.value.(int64); ok && v >= least && v <= most {
				return v
			}
		}
		return other
	}
	format := serial.DefaultFormat
	if c := profile.child("factory").child("format"); c != nil {
		if v, ok := c.value.(string); ok {
			if f, err := serial.ParseFormat(v); err == nil {
				format = f.String()
			}
		}
	}
	line := fmt.Sprintf("address = \"/dev/ttyUSB0\"\nbaud = %d\nformat = %q\n", number("baud", 50, 4_000_000, 9600), format)
	id, port := number("unit_id", 0, 255, 1), number("port", 1, 65535, 0)
	unit := fmt.Sprintf("unit_id = %d\n", id)
	switch {
	case profile.child("frame") != nil:
		line, unit = line+"protocol = \"frames\"\n", ""
	case profile.child("line") != nil:
		line, unit = line+"protocol = \"lines\"\n", ""
	case port > 0:
		line = fmt.Sprintf("address = \"tcp://127.0.0.1:%d\"\n", port)
	case id == 0 || id == 255:
		line = "address = \"tcp://127.0.0.1\"\n"
	}
	return "[bus.x]\n" + line + "[device.x]\nbus = \"x\"\n" + unit
}

// headComment returns the comment at the top of a file, without its marks.
func headComment(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			break
		}
		lines = append(lines, strings.TrimPrefix(rest, " "))
	}
	return strings.Join(lines, "\n")
}

// RegistersOnly reports whether the profile has points, all of them in
// registers: then it is of a Modbus device.
func (p *Profile) RegistersOnly() bool {
	for _, point := range p.Device.Points {
		if _, ok := modbus.RegisterOf(point.Source); !ok {
			return false
		}
	}
	return len(p.Device.Points) > 0
}
