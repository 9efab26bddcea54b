package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"edgegateway/configs"
)

// TestConfigurationReference compares docs/reference-configuration.md with what
// the program knows: keys and types are those of the raw structs, ranges and
// choices what the checks say of a wrong value, whether a reload takes a key what
// Parts and TakesReload say, and the explanations those of reference.toml.
func TestConfigurationReference(t *testing.T) {
	const page = "../../docs/reference-configuration.md"
	r := newReference(t)
	want := r.page()
	for key := range knownKeys(reflect.TypeFor[rawGateway](), make(map[string]bool)) {
		if !r.shown[key] && !r.tables[key] {
			t.Errorf("the page explains no %s", key)
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != want {
		t.Errorf("%s is stale (%v): go test ./internal/config -run TestConfigurationReference -update", page, err)
	}
}

// A refKey is a key as it stands somewhere in reference.toml.
type refKey struct {
	section string // [bus.NAME]
	key     string // behind.baud
	owner   string // rawBehind.baud, as knownKeys has it
	path    string // bus.hall.behind.baud
	field   reflect.Type
	node    *node
}

// A refEntry is a comment of reference.toml with the lines below it.
type refEntry struct {
	words, lines []string
	keys         []*refKey
	tells        []*refKey // those that the page lists here
}

// A refPage makes the page.
type refPage struct {
	t        *testing.T
	dir      string
	text     string
	parts    map[string]string // of each setting, by its path
	headers  map[string]string // what the tables of the file are called on the page
	lines    map[int][]*refKey // the keys of each line
	chapters map[string]string // by the section that begins it
	order    []string          // sections
	sections map[string][]*refEntry
	kinds    map[string][]string // what values of several kinds may be, by their key
	limits   map[string]string   // by owner
	tables   map[string]bool     // owners of what has a section of its own
	shown    map[string]bool     // owners, and keys with their section
}

func newReference(t *testing.T) *refPage {
	r := &refPage{
		t: t, dir: referenceFolder(t), text: string(configs.Reference),
		parts: make(map[string]string), headers: make(map[string]string), lines: make(map[int][]*refKey),
		chapters: make(map[string]string), sections: make(map[string][]*refEntry), kinds: make(map[string][]string),
		limits: make(map[string]string), tables: make(map[string]bool), shown: make(map[string]bool),
	}
	var settings []Setting
	if cfg, report := r.load(r.text, &settings); cfg == nil {
		t.Fatal(report.Summary())
	}
	for _, s := range settings {
		r.parts[s.Key] = s.Part
	}
	root, _ := parse(&source{data: r.text}, new(Report))
	r.walk(root, []reflect.Type{reflect.TypeFor[rawGateway]()}, "", "")
	r.read()
	for _, section := range r.order {
		r.probe(section)
	}
	clear(r.shown)
	return r
}

func (r *refPage) load(text string, settings *[]Setting) (*Config, *Report) {
	path := filepath.Join(r.dir, "reference.toml")
	write(r.t, path, text)
	opts := testOptions(nil)
	opts.Profiles, opts.Settings = nil, settings
	return Load(path, opts)
}

// walk notes each key below n, which stands at path; called is path with NAME
// for what people name.
func (r *refPage) walk(n *node, types []reflect.Type, called, path string) {
	r.headers[path] = called
	for _, t := range types {
		if b, named := below(t); named {
			for _, name := range n.order {
				if c := n.keys[name]; c.isTable() {
					r.walk(c, b, strings.TrimPrefix(called+".NAME", "."), strings.TrimPrefix(path+"."+keyWord(name), "."))
				}
			}
			continue
		}
		for name, field := range fieldTypes(t) {
			c := n.child(name)
			if c == nil {
				continue
			}
			k := &refKey{
				key: strings.TrimPrefix(called+"."+name, "."), owner: t.Name() + "." + name,
				path: strings.TrimPrefix(path+"."+name, "."), field: field, node: c,
			}
			line := strings.Count(r.text[:c.key.start], "\n")
			r.lines[line] = append(r.lines[line], k)
			if kind := kinds[c.kind()]; !slices.Contains(r.kinds[name], kind) {
				r.kinds[name] = append(r.kinds[name], kind)
			}
			sub, named := below(field)
			if c.isTable() && (named || strings.HasPrefix(r.text[strings.LastIndex(r.text[:c.key.start], "\n")+1:], "[")) {
				r.tables[k.owner] = true
			}
			switch {
			case !c.isTable():
			case named:
				r.walk(c, []reflect.Type{field}, k.key, k.path)
			case len(sub) > 0:
				r.walk(c, sub, k.key, k.path)
			}
		}
	}
}

// kinds are what people call the kinds of values.
var kinds = map[string]string{
	"an integer": "number", "a float": "number", "a string": "text", "a boolean": "true or false", "an array": "list", "a table": "table",
}

var tableHeader = regexp.MustCompile(`^\[(.*)\]$`)

// read goes through the lines of reference.toml.
func (r *refPage) read() {
	chapter, section, path := "General", "", ""
	headed := false // by the line before
	e := new(refEntry)
	put := func() {
		headed = false
		if len(e.words) > 0 || len(e.keys) > 0 {
			if r.sections[section] == nil {
				r.order, r.chapters[section] = append(r.order, section), chapter
				chapter = ""
			}
			r.sections[section] = append(r.sections[section], e)
		}
		e = new(refEntry)
	}
	for i, line := range strings.Split(r.text, "\n") {
		switch words, isComment := strings.CutPrefix(line, "#"); {
		case strings.HasPrefix(line, "## "):
			put()
			chapter, section, path = strings.Trim(line, "# "), "", ""
		case isComment:
			if len(e.lines) > 0 || headed {
				put()
			}
			e.words = append(e.words, strings.TrimPrefix(words, " "))
		case line == "":
			put()
		case tableHeader.MatchString(line):
			if len(e.lines) > 0 {
				put()
			}
			path = strings.ReplaceAll(tableHeader.FindStringSubmatch(line)[1], `"*"`, keyWord("*"))
			called, ok := r.headers[path]
			if !ok {
				r.t.Fatalf("line %d: no table %s", i+1, path)
			}
			section, headed = called, true
		default:
			headed = false
			e.lines = append(e.lines, line)
			for _, k := range r.lines[i] {
				k.section = section
				k.key = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(k.key, section), "."), "NAME.")
				e.keys = append(e.keys, k)
			}
			slices.SortFunc(e.keys, func(a, b *refKey) int { return a.node.key.start - b.node.key.start })
		}
	}
	put()
}

// page writes it.
func (r *refPage) page() string {
	var b strings.Builder
	b.WriteString(`# Configuration reference

Made by ` + "`go test ./internal/config -run TestConfigurationReference -update`" + `; the
words are those of [configs/reference.toml](../configs/reference.toml), which has all of
this as one file.
`)
	for _, section := range r.order {
		if chapter := r.chapters[section]; chapter != "" {
			fmt.Fprintf(&b, "\n## %s\n", chapter)
		}
		usual := r.effect(section)
		switch {
		case section != "":
			fmt.Fprintf(&b, "\n### [%s]\n\n%s\n", section, usual)
		case usual != "":
			fmt.Fprintf(&b, "\n%s\n", usual)
		}
		r.place(section)
		for _, e := range r.sections[section] {
			r.entry(&b, e, usual)
		}
	}
	return regexp.MustCompile("\n{3,}").ReplaceAllString(b.String(), "\n\n")
}

// place has each key of a section told of in one entry: where it stands and is
// spoken of, else where it stands in a list, else where it stands first.
func (r *refPage) place(section string) {
	entries := r.sections[section]
	for _, e := range entries {
		for _, k := range e.keys {
			name := k.section + "." + k.key
			if r.shown[name] || k.section == "devices.NAME" && r.shown["device.NAME."+k.key] {
				continue
			}
			r.shown[name], r.shown[k.owner] = true, true
			word := regexp.QuoteMeta(k.key[strings.LastIndex(k.key, ".")+1:])
			spoken := regexp.MustCompile(`(?mi)(^|[^\w"])` + word + `s?([^\w"]|$)`)
			listed := regexp.MustCompile(`(?m)^  ` + word + ` `)
			at := slices.IndexFunc(entries, func(e *refEntry) bool {
				return slices.ContainsFunc(e.keys, func(o *refKey) bool { return o.key == k.key }) && spoken.MatchString(strings.Join(e.words, "\n"))
			})
			if at < 0 {
				at = slices.IndexFunc(entries, func(e *refEntry) bool { return listed.MatchString(strings.Join(e.words, "\n")) })
			}
			if at >= 0 {
				entries[at].tells = append(entries[at].tells, k)
			} else {
				e.tells = append(e.tells, k)
			}
		}
	}
}

// effectOf says when a change of a part counts.
func effectOf(part string) string {
	kind, _, named := strings.Cut(part, " ")
	switch {
	case named:
		return "A reload takes changes: the " + kind + " begins anew, all others go on."
	case TakesReload(part):
		return "A reload takes changes."
	}
	return "Changes need a restart."
}

// effect is that of most keys of a section, "" if it has none.
func (r *refPage) effect(section string) (usual string) {
	n := make(map[string]int)
	for _, e := range r.sections[section] {
		for _, k := range e.keys {
			if part := r.partOf(k); part != "" {
				n[effectOf(part)]++
			}
		}
	}
	for text, count := range n {
		if count > n[usual] || count == n[usual] && text < usual {
			usual = text
		}
	}
	return usual
}

// partOf is the part of the configuration that a key belongs to.
func (r *refPage) partOf(k *refKey) string {
	if strings.HasPrefix(k.path, "devices.") {
		return BusPart("of a template's devices")
	}
	for setting, part := range r.parts {
		if setting == k.path || strings.HasPrefix(setting, k.path+".") || strings.HasPrefix(setting, k.path+"[") {
			return part
		}
	}
	return ""
}

func (r *refPage) entry(b *strings.Builder, e *refEntry, usual string) {
	b.WriteString("\n")
	inline := slices.ContainsFunc(e.lines, func(l string) bool {
		return strings.Contains(l, "{ ") || strings.Contains(l, ".") && !strings.Contains(l, `"`)
	})
	defaults := defaultsOf(strings.Join(e.words, " "))
	list := ""
	for _, k := range e.tells {
		if len(e.words) == 0 {
			r.t.Errorf("reference.toml explains no %s of [%s]: it has no comment", k.key, k.section)
		}
		list += "- `" + k.key + "`: " + r.typeOf(k)
		if limit := r.limits[k.owner]; limit != "" {
			list += ", " + limit
		}
		if len(defaults) == len(e.tells) {
			list += ", without it `" + defaults[0] + "`"
			defaults = append(defaults[1:], "")
		}
		if !inline {
			list += "; such as `" + r.text[k.node.val.start:k.node.val.end] + "`"
		}
		if _, remark, ok := strings.Cut(r.lineOf(k), " # "); ok {
			list += "; " + strings.TrimSpace(remark)
		}
		if part := r.partOf(k); part != "" && effectOf(part) != usual {
			list += ". " + strings.TrimSuffix(effectOf(part), ".")
		}
		list += "\n"
	}
	if list != "" {
		b.WriteString(list + "\n")
	}
	prose(b, e.words)
	if inline && (list != "" || len(e.words) > 0) {
		fmt.Fprintf(b, "\n```toml\n%s\n```\n", strings.Join(e.lines, "\n"))
	}
}

var (
	literal     = "\"[^\"]*\"|true|false|none|[0-9][0-9A-Za-z.]*|tcp://[0-9.:]+"
	saidWithout = regexp.MustCompile("\\(?(" + literal + ")\\)?(?: and (" + literal + "))?,?(?: as)? without it(?: (?:where|for) )?")
)

// defaultsOf finds what the words say that holds without the keys.
func defaultsOf(words string) (all []string) {
	for _, m := range saidWithout.FindAllStringSubmatch(words, -1) {
		if strings.HasSuffix(m[0], " ") { // it depends
			return nil
		}
		for _, d := range m[1:] {
			if d != "" {
				all = append(all, d)
			}
		}
	}
	return all
}

func (r *refPage) lineOf(k *refKey) string {
	line, _, _ := strings.Cut(r.text[k.node.key.start:], "\n")
	return line
}

// prose writes a comment; what is indented in it stays as it is.
func prose(b *strings.Builder, words []string) {
	fenced := false
	for i, w := range words {
		if indented := strings.HasPrefix(w, "  "); indented != fenced {
			if indented && i > 0 {
				b.WriteString("\n")
			}
			b.WriteString("```\n")
			if fenced = indented; !indented {
				b.WriteString("\n")
			}
		}
		b.WriteString(strings.TrimPrefix(w, "  ") + "\n")
	}
	if fenced {
		b.WriteString("```\n")
	}
}

// typeOf is what a value may be.
func (r *refPage) typeOf(k *refKey) string {
	switch k.field {
	case reflect.TypeFor[text]():
		return "text"
	case reflect.TypeFor[secret]():
		return "text, a secret"
	case reflect.TypeFor[pemFile]():
		return "a PEM file"
	case reflect.TypeFor[integer]():
		return "whole number"
	case reflect.TypeFor[boolean]():
		return "true or false"
	case reflect.TypeFor[duration]():
		return "time"
	case reflect.TypeFor[size]():
		return "size"
	case reflect.TypeFor[texts]():
		return "list of texts"
	case reflect.TypeFor[words]():
		return "table of texts"
	}
	if sub, _ := below(k.field); len(sub) > 0 && k.field != reflect.TypeFor[rawLineSum]() {
		return "table"
	}
	name := k.key[strings.LastIndex(k.key, ".")+1:]
	slices.Sort(r.kinds[name])
	return strings.Join(r.kinds[name], " or ")
}

var limits = []*regexp.Regexp{
	regexp.MustCompile(`none of the choices "(.*?)"`),
	regexp.MustCompile(`must be between (-?\d+ and -?\d+)`),
	regexp.MustCompile(`the least is (\S+)$`),
}

// probe has the program say what the keys of a section may be, by giving them what
// they cannot be.
func (r *refPage) probe(section string) {
	wrong := map[reflect.Type]string{
		reflect.TypeFor[text](): `"?"`, reflect.TypeFor[integer](): "-999999999", reflect.TypeFor[duration](): `"0s"`,
	}
	groups := make(map[reflect.Type][]*refKey)
	var alone [][]*refKey
	for _, e := range r.sections[section] {
		for _, k := range e.keys {
			switch {
			case wrong[k.field] == "" || r.shown[k.owner]:
			case strings.HasPrefix(section, "device"): // one mistake in a device hides others
				alone = append(alone, []*refKey{k})
			default:
				groups[k.field] = append(groups[k.field], k)
			}
			r.shown[k.owner] = true
		}
	}
	for _, keys := range slices.AppendSeq(alone, maps.Values(groups)) {
		var b strings.Builder
		at, places := 0, make(map[int]*refKey)
		for _, k := range keys {
			b.WriteString(r.text[at:k.node.val.start])
			places[b.Len()] = k
			b.WriteString(wrong[k.field])
			at = k.node.val.end
		}
		b.WriteString(r.text[at:])
		text := aloneIn(b.String(), slices.Max(slices.Collect(maps.Keys(places))))
		_, report := r.load(text, nil)
		for _, i := range report.Issues {
			begin := 0
			for range i.Line - 1 {
				begin += strings.Index(text[begin:], "\n") + 1
			}
			if k := places[begin+i.start]; k != nil && r.limits[k.owner] == "" {
				r.limits[k.owner] = limitOf(i.Message)
			}
		}
	}
}

// aloneIn leaves of a text what the line at offset at needs around it: its chapter, of
// the devices only its own, and the name and the buses. Offsets stay as they are.
func aloneIn(text string, at int) string {
	var b strings.Builder
	begins := chunk.FindAllStringSubmatchIndex(text, -1)
	begin, device := 0, ""
	for i := 0; i <= len(begins); i++ {
		end, next := len(text), ""
		if i < len(begins) {
			end = begins[i][0]
			if begins[i][2] >= 0 {
				next = text[begins[i][2]:begins[i][3]]
			}
			if next != "" && next == device { // another table of the same device
				continue
			}
		}
		part := text[begin:end]
		if begin == 0 || strings.HasPrefix(part, "## Buses") || begin <= at && at < end {
			b.WriteString(part)
		} else {
			b.WriteString(strings.Repeat("\n", end-begin))
		}
		begin, device = end, next
	}
	return b.String()
}

// chunk is where a chapter or a table of a device begins.
var chunk = regexp.MustCompile(`(?m)^(?:## |\[(devices?\.[^.\]]+))`)

// limitOf is what a message says is possible.
func limitOf(message string) string {
	for kind, limit := range limits {
		m := limit.FindStringSubmatch(message)
		switch {
		case m == nil:
		case kind == 0:
			return "one of `" + strings.ReplaceAll(m[1], ", ", "` `") + "`"
		case kind == 1:
			return strings.Replace(m[1], " and ", " to ", 1)
		default:
			return "at least " + m[1]
		}
	}
	return ""
}
