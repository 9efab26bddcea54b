package config

import (
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A Redacted is a file of a configuration as it may be given to others.
type Redacted struct {
	Name string
	Text string
}

// Redact returns the files of a configuration with every key and value on a
// line of its own, and its number in front. It is made of what was understood:
// comments, in which anything may stand, are left out, and so is a file with a
// syntax error. Values of passwords and keys are hidden, and those of keys that
// nobody knows but that are called like one.
func Redact(path string, opts Options) (list []Redacted) {
	l := newLoader(opts)
	l.readAll(path)
	names := l.cfg.Files
	for _, name := range l.profileNames() {
		if file := "profiles/" + name + ".toml"; exists(os.DirFS(l.dir), file) {
			names = append(names, file)
		}
	}
	for _, name := range names {
		n := l.parseFS(os.DirFS(l.dir), name, name)
		if n == nil {
			continue
		}
		var b strings.Builder
		n.redact(&b, "")
		list = append(list, Redacted{name, b.String()})
	}
	return list
}

// likeSecret are keys whose values nobody should see, known or not.
var likeSecret = regexp.MustCompile(`(?i)pas+w|pass|pw|secret|token|credential|sas_|api_?key`)

// notSecret are those that only sound so.
var notSecret = []string{"passwords"}

// redact writes what n says, in the order of the file.
func (n *node) redact(b *strings.Builder, path string) {
	for _, k := range n.order {
		n.keys[k].redact(b, strings.TrimPrefix(path+"."+keyWord(k), "."))
	}
	for i, c := range n.items {
		c.redact(b, fmt.Sprintf("%s[%d]", path, i))
	}
	if len(n.order)+len(n.items) > 0 || path == "" {
		return
	}
	value := n.shown(path)
	text, isString := n.value.(string)
	_, key := lastKey(path)
	_, _, isRef := reference(text)
	switch {
	case isRef:
		value = n.spell()
	case isString && likeSecret.MatchString(key) && !slices.Contains(notSecret, key):
		value = hidden
	}
	fmt.Fprintf(b, "%5d  %s = %s\n", n.line(), path, value)
}

// line is where the value stands, from 1.
func (n *node) line() int {
	return strings.Count(n.src.data[:max(0, min(n.val.start, len(n.src.data)))], "\n") + 1
}

// Secrets lists the passwords and keys that cfg holds, for those who look for
// them where they should not be. Short ones are left out: they are anywhere.
func (c *Config) Secrets() (list []string) {
	add := func(s string) {
		if len(s) >= 4 {
			list = append(list, s)
		}
	}
	for _, b := range c.Bridges {
		add(b.Password)
		for _, m := range urlPassword.FindAllStringSubmatch(b.Proxy, -1) {
			add(m[2])
		}
		if b.SAS != nil {
			add(base64.StdEncoding.EncodeToString(b.SAS.Key))
		}
	}
	return list
}
