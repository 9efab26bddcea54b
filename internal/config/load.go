package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"edgegateway/configs"
	"edgegateway/devices"
	"edgegateway/internal/homeassistant"
	"edgegateway/mapping"
)

// Options change where Load looks for what is not in the configuration. Zero
// fields mean the program's surroundings.
type Options struct {
	Profiles fs.FS                       // of the profiles that come with the program, as profiles/MAKER/MODEL.toml
	Env      func(string) (string, bool) // looks up environment variables
	Hostname func() (string, error)      // names the machine

	// SecretsElsewhere makes secrets that are not there warnings: for those
	// who use no bridge, since systemd may give them to the service only.
	SecretsElsewhere bool

	Settings *[]Setting // takes all values of a configuration without faults; nil: nobody wants them
}

// Load reads the configuration in a folder, or in one file. The Config is nil
// exactly if the report holds errors.
func Load(path string, opts Options) (*Config, *Report) {
	l := newLoader(opts)
	if root := l.readAll(path); root != nil {
		l.readGateway(root)
	}
	l.sort()
	if l.Errors() > 0 {
		return nil, l.Report
	}
	return l.cfg, l.Report
}

// A loader holds one configuration while it is read.
type loader struct {
	*binder
	opts Options
	dir  string
	cfg  *Config

	files      int              // read so far
	incomplete bool             // a file could not be read, so that things may be missing
	profiles   map[string]*node // by name; nil for those that cannot be used

	buses     []*bus
	ids       map[string]*node         // device tables by key
	names     map[string]*node         // and by name
	at        map[*devices.Point]*node // where points were written
	abouts    map[*mapping.Device]about
	hints     map[*mapping.Point]homeassistant.Hint
	effective []effective
	topics    map[string]string // placeholders of topics
	published []flow            // see allFlows
}

// effective is the table of a device after everything was laid over it.
type effective struct {
	key string // of the device
	at  *node
}

func newLoader(opts Options) *loader {
	if opts.Profiles == nil {
		opts.Profiles = configs.Profiles
	}
	if opts.Env == nil {
		opts.Env = os.LookupEnv
	}
	if opts.Hostname == nil {
		opts.Hostname = os.Hostname
	}
	credDir, _ := opts.Env("CREDENTIALS_DIRECTORY")
	return &loader{
		binder:   &binder{Report: new(Report), secrets: &secrets{credDir: credDir, env: opts.Env, expanded: make(map[*node]string), contents: make(map[*node]string), optional: opts.SecretsElsewhere}},
		opts:     opts,
		cfg:      new(Config),
		profiles: make(map[string]*node),
		ids:      make(map[string]*node),
		names:    make(map[string]*node),
		at:       make(map[*devices.Point]*node),
		abouts:   make(map[*mapping.Device]about),
		hints:    make(map[*mapping.Point]homeassistant.Hint),
	}
}

// maxFile bounds a configuration file.
const maxFile = 4 << 20

// readAll reads the files and joins them: nil if there is nothing to read.
func (l *loader) readAll(name string) *node {
	info, err := os.Stat(name)
	if err != nil {
		l.add(Error, nil, span{}, "read configuration %s: %v; --config names another place, and `gateway init` makes one", name, plain(err))
		return nil
	}
	if !info.IsDir() {
		l.setDir(filepath.Dir(name))
		return l.readFile(filepath.Base(name))
	}
	l.setDir(name)
	root := l.readFile("gateway.toml")
	for _, file := range l.deviceFiles() {
		root = l.union(root, l.readFile(file))
	}
	if _, err := os.Stat(filepath.Join(l.dir, "site.toml")); err == nil {
		root = overlaySite(root, l.readFile("site.toml"))
	}
	return root
}

func (l *loader) setDir(dir string) {
	l.dir, l.secrets.dir, l.cfg.Dir = dir, dir, dir
}

// deviceFiles lists devices.d in the order of names.
func (l *loader) deviceFiles() []string {
	entries, err := os.ReadDir(filepath.Join(l.dir, "devices.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.add(Error, nil, span{}, "read devices.d: %v", plain(err))
		l.incomplete = true
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, path.Join("devices.d", e.Name()))
		}
	}
	return files
}

// readFile reads a file of the configuration folder: nil if it cannot be
// used, which is reported.
func (l *loader) readFile(name string) *node {
	n := l.parseFS(os.DirFS(l.dir), name, name)
	if n == nil {
		l.incomplete = true
		return nil
	}
	l.cfg.Files = append(l.cfg.Files, name)
	return n
}

// parseFS parses one file; shown is what reports call it.
func (l *loader) parseFS(fsys fs.FS, name, shown string) *node {
	src := &source{name: shown, order: l.files}
	l.files++
	data, err := fs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		l.add(Error, src, span{}, "there is no such file; `gateway init` makes one")
		return nil
	}
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	if err != nil {
		l.add(Error, src, span{}, "read it: %v", plain(err))
		return nil
	}
	src.data = string(data)
	n, ok := parse(src, l.Report)
	if !ok {
		return nil
	}
	return n
}

// spread are the tables that files of devices.d may add to.
var spread = []string{"bus", "device", "devices"}

// union adds the tables of a file of devices.d. What is there already is not
// replaced but reported.
func (l *loader) union(root, n *node) *node {
	switch {
	case n == nil:
		return root
	case root == nil:
		_, root = n.split(n.order...) // gateway.toml is absent, which was reported
	}
	for _, kind := range n.order {
		c := n.keys[kind]
		if !slices.Contains(spread, kind) {
			l.reportMisplaced(c, kind)
			continue
		}
		root = root.with(kind, l.join(kind, root.child(kind), c))
	}
	return root
}

func (l *loader) reportMisplaced(n *node, kind string) {
	if slices.Contains(keysOf[rawGateway](), kind) {
		l.errorKey(n, "%s belongs into gateway.toml; files of devices.d hold %s", kind, strings.Join(spread, ", "))
		return
	}
	l.unknownKey(n, kind, "a file of devices.d", spread)
}

// join adds the tables in c to those in have, each a [device] or the like.
func (l *loader) join(kind string, have, c *node) *node {
	if !have.isTable() || !c.isTable() {
		return c
	}
	for _, key := range c.order {
		if other := have.child(key); other != nil {
			l.errorKey(c.keys[key], "there are two [%s.%s]; the other is at %s", kind, key, other.where())
			continue
		}
		have = have.with(key, c.keys[key])
	}
	return have
}

// overlaySite lays site.toml over all else.
func overlaySite(root, site *node) *node {
	if site == nil {
		return root
	}
	have, over := root.child("device"), site.child("device")
	if have.isTable() && over.isTable() {
		for key, n := range over.keys {
			if c := have.child(key); c.isTable() && n.isTable() {
				have = have.replace(key, overlayDevice(c, n))
			}
		}
		root, site = root.replace("device", overlay(over, have)), site.with("device", nil)
	}
	return overlay(root, site)
}

// profileOf returns the profile that a device table names, nil if it names
// none. ok is false if it cannot be had, which is reported.
func (l *loader) profileOf(n *node) (profile *node, ok bool) {
	c := n.child("profile")
	if c == nil {
		return nil, true
	}
	name, isString := c.value.(string)
	if !isString {
		return nil, true // reported when the device is bound
	}
	p, known := l.profiles[name]
	if !known {
		p = l.readProfile(c, name)
		l.profiles[name] = p
	}
	return p, p != nil
}

func (l *loader) readProfile(at *node, name string) *node {
	file := path.Join("profiles", name+".toml")
	own := os.DirFS(l.dir)
	fsys, shown := own, file
	if exists(own, file) {
		l.cfg.Files = append(l.cfg.Files, file)
	} else {
		fsys, shown = l.opts.Profiles, file+" (built in)"
	}
	if !exists(fsys, file) {
		l.errorAt(at, "there is no profile %q, neither in %s nor built in%s", name, filepath.Join(l.dir, "profiles"),
			didYouMean(nearest(name, l.profileNames())))
		return nil
	}
	return l.parseProfile(fsys, file, shown)
}

// parseProfile reads a profile from a file; shown is what reports call it.
func (l *loader) parseProfile(fsys fs.FS, file, shown string) *node {
	p := l.parseFS(fsys, file, shown)
	if p == nil {
		return nil
	}
	for _, k := range deviceKeys {
		if c := p.child(k); c != nil {
			l.errorKey(c, "%s belongs to a device; a profile says what every device of its kind has to tell", k)
			p = p.with(k, nil)
		}
	}
	return p
}

func exists(fsys fs.FS, file string) bool {
	info, err := fs.Stat(fsys, file)
	return err == nil && info.Mode().IsRegular()
}

// profileNames lists all profiles, own and built in.
func (l *loader) profileNames() []string {
	names := make(map[string]bool)
	for _, fsys := range []fs.FS{os.DirFS(l.dir), l.opts.Profiles} {
		_ = fs.WalkDir(fsys, "profiles", func(p string, e fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(p, ".toml") {
				names[strings.TrimSuffix(strings.TrimPrefix(p, "profiles/"), ".toml")] = true
			}
			return nil // an unreadable folder has no profiles
		})
	}
	return sortedKeys(names)
}

// readGateway turns the joined tables into the Config.
func (l *loader) readGateway(root *node) {
	var raw rawGateway
	l.table(root, &raw, "gateway.toml")
	l.readName(&raw)
	l.readTimezone(raw.Timezone)
	l.cfg.TrustClock = l.choice(raw.Clock, "auto", "auto", "trusted") == "trusted"
	l.readBuses(raw.Bus)
	l.readBroker(&raw.Broker)
	l.readAccess(&raw.Broker)
	l.readSpool(&raw.Spool)
	l.checkLargest(raw.Broker.MaxPacket)
	l.readCommands(&raw.Commands)
	for _, e := range raw.Device.V {
		l.addDevice(e.key, e.value.at)
	}
	for _, e := range raw.Devices.V {
		l.addTemplate(e.key, e.value.at)
	}
	if len(l.cfg.Devices) == 0 && !l.incomplete && l.Errors() == 0 {
		l.add(Warning, nil, span{}, "there are no devices: write [device.NAME] tables in devices.d")
	}
	l.finishBuses()
	l.readPublish(raw.Publish)
	for _, e := range raw.Bridge.V {
		l.readBridge(e.key, e.value)
	}
	l.readHomeAssistant(&raw.HA)
	l.readWeb(&raw.Web)
	l.checkPlans()
	l.summarize(root)
	l.cfg.where = make(map[*devices.Point]origin, len(l.at))
	for p, n := range l.at {
		l.cfg.where[p] = origin{n.src, n.key}
	}
}

// hostNames are what machines are called that nobody named. A bridge under
// such a name would meet its likes upstream.
var hostNames = []string{"raspberrypi", "localhost"}

// FreshName reports whether every fresh machine is called so.
func FreshName(name string) bool { return slices.Contains(hostNames, strings.ToLower(name)) }

func (l *loader) readName(raw *rawGateway) {
	name, bridged := raw.Name, len(raw.Bridge.V) > 0
	if !name.set() {
		host, err := l.opts.Hostname()
		if err != nil || checkName(host) != "" {
			host = "gateway"
		}
		l.cfg.Name = host
		if bridged && raw.at.child("name") == nil && !l.incomplete {
			l.errorKey(raw.Bridge.at, `a gateway with a bridge needs a name of its own: write name = "plant-a" at the top of gateway.toml`)
		}
		return
	}
	l.cfg.Name = name.V
	if wrong := checkName(name.V); wrong != "" {
		l.errorAt(name.at, "the name %q %s", name.V, wrong)
	}
	if bridged && FreshName(name.V) {
		l.errorAt(name.at, "%q is what every fresh machine is called; a gateway with a bridge needs a name of its own, or two of them meet upstream", name.V)
	}
}

func (l *loader) readTimezone(t text) {
	l.cfg.Timezone = time.Local
	if !t.set() {
		return
	}
	zone, err := time.LoadLocation(t.V)
	if err != nil {
		l.errorAt(t.at, `there is no time zone %q; zones are called like "Europe/Berlin"`, t.V)
		return
	}
	l.cfg.Timezone = zone
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
