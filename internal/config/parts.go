package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strings"

	"edgegateway/mapping"
)

// The parts of a configuration are what a reload looks at one by one: a bus
// with its devices and a bridge each are one, called as by BusPart and
// BridgePart; who may use the broker is one; every other table is one, and what
// stands above all tables.
const (
	GeneralPart = "general" // name, timezone, clock
	UsersPart   = "users"   // of the broker
)

// TakesReload reports whether a change of a part counts with the next reload, not
// only with the next start.
func TakesReload(part string) bool {
	kind, _, named := strings.Cut(part, " ")
	return named && (kind == "bus" || kind == "bridge") || part == UsersPart || part == "publish" || part == "homeassistant"
}

func BusPart(id string) string      { return "bus " + id }
func BridgePart(name string) string { return "bridge " + name }

// A Setting is one value of a configuration after profiles and site.toml were
// laid over each other. That of a password is hidden.
type Setting struct {
	Part  string `json:"part"`
	Key   string `json:"key"` // such as device.main.points.power.deadband
	Value string `json:"value"`
}

// String is how it would be written.
func (s Setting) String() string { return s.Key + " = " + s.Value }

// A setting with what is not to be shown.
type setting struct {
	Setting
	secret string // "" or a digest of what a reference or a path leads to
}

// settings lists all that was read.
func (l *loader) settings(root *node) (list []setting) {
	onBus := make(map[string]string, len(l.cfg.Devices))
	for _, d := range l.cfg.Devices {
		onBus[d.ID] = BusPart(d.Bus)
	}
	_, rest := root.split("device", "devices")
	for _, table := range rest.order {
		c := rest.keys[table]
		if !c.isTable() {
			list = l.flatten(list, GeneralPart, table, c)
			continue
		}
		if len(c.keys) == 0 {
			list = l.flatten(list, table, table, c)
		}
		for _, key := range sortedKeys(c.keys) {
			part := table
			switch {
			case table == "bus":
				part = BusPart(key)
			case table == "bridge":
				part = BridgePart(key)
			case table == "broker" && slices.Contains(keysOf[rawAccess](), key):
				part = UsersPart
			}
			list = l.flatten(list, part, table+"."+keyWord(key), c.keys[key])
		}
	}
	for _, e := range l.effective {
		list = l.flatten(list, onBus[e.key], "device."+keyWord(e.key), e.at)
	}
	slices.SortFunc(list, func(a, b setting) int { return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Key, b.Key)) })
	return list
}

// keyWord is a key as TOML wants it written.
func keyWord(key string) string {
	bare := func(r rune) bool {
		return r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if key != "" && strings.IndexFunc(key, func(r rune) bool { return !bare(r) }) < 0 {
		return key
	}
	return fmt.Sprintf("%q", key)
}

// flatten appends what n says, in an order that does not depend on how it is
// written.
func (l *loader) flatten(list []setting, part, path string, n *node) []setting {
	switch {
	case len(n.keys) > 0:
		for _, k := range sortedKeys(n.keys) {
			list = l.flatten(list, part, path+"."+keyWord(k), n.keys[k])
		}
		return list
	case len(n.items) > 0:
		for i, c := range n.items {
			list = l.flatten(list, part, fmt.Sprintf("%s[%d]", path, i), c)
		}
		return list
	}
	s := setting{Setting{part, path, n.spell()}, l.secrets.digest(n)}
	if shown := n.shown(path); shown != s.Value {
		s.secret += digest(s.Value)
		s.Value = shown
	}
	return append(list, s)
}

// shown is how the value at path may be shown: that of a password or key is
// hidden, written out or not, and so is the password in a URL.
func (n *node) shown(path string) string {
	text, isString := n.value.(string)
	_, key := lastKey(path)
	switch {
	case key == "password" || key == "sas_key" || strings.Contains(text, pemBegin):
		return hidden
	case isString && strings.Contains(text, "@"):
		return urlPassword.ReplaceAllString(n.spell(), "://${1}:"+hidden+"@")
	}
	return n.spell()
}

// urlPassword finds the password in a URL.
var urlPassword = regexp.MustCompile(`://([^/\s:@"']*):([^\s"']+)@`)

// lastKey splits the path of a setting before its last key.
func lastKey(path string) (table, key string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}

// spell writes a value in one way, however it stands in the file.
func (n *node) spell() string {
	switch v := n.value.(type) {
	case nil:
		if n.items != nil {
			return "[]"
		}
		return "{}"
	case string:
		return fmt.Sprintf("%q", v)
	default:
		return fmt.Sprint(v)
	}
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// digest is of what n led to: a secret, or the content of a file.
func (x *secrets) digest(n *node) (all string) {
	if v, ok := x.expanded[n]; ok {
		all = digest(v)
	}
	return all + x.contents[n]
}

// summarize makes the hash of the whole configuration, which is shown and does
// not depend on secrets, and those of its parts, which do.
func (l *loader) summarize(root *node) {
	list := l.settings(root)
	parts := make(map[string]hash.Hash)
	whole := sha256.New()
	for _, s := range list {
		fmt.Fprintln(whole, s.Setting)
		if parts[s.Part] == nil {
			parts[s.Part] = sha256.New()
		}
		fmt.Fprintln(parts[s.Part], s.Setting, s.secret)
		if l.opts.Settings != nil {
			*l.opts.Settings = append(*l.opts.Settings, s.Setting)
		}
	}
	l.cfg.hash = hex.EncodeToString(whole.Sum(nil)[:6])
	l.cfg.parts = make(map[string]string, len(parts))
	for part, sum := range parts {
		l.cfg.parts[part] = hex.EncodeToString(sum.Sum(nil))
	}
}

// Parts returns a digest of each part, by its name. It changes with what the
// part says, with its passwords, and with the files it names.
func (c *Config) Parts() map[string]string { return c.parts }

// Keep has c take over the buses of old that keep selects, with their devices:
// the same objects, for those who hold on to them. What c says of them has to
// be the same.
func (c *Config) Keep(old *Config, keep func(bus string) bool) {
	devs := make(map[string]*mapping.Device)
	for i, b := range c.Buses {
		if !keep(b.ID) {
			continue
		}
		j := slices.IndexFunc(old.Buses, func(o *Bus) bool { return o.ID == b.ID })
		c.Buses[i] = old.Buses[j]
		for _, d := range old.Buses[j].Devices {
			devs[d.ID] = d
		}
	}
	for i, d := range c.Devices {
		kept := devs[d.ID]
		if kept == nil {
			continue
		}
		c.Devices[i] = kept
		for j, p := range d.Points { // they may stand elsewhere now
			if o, ok := c.where[p.Point]; ok && j < len(kept.Points) {
				c.where[kept.Points[j].Point] = o
			}
		}
	}
}
