package config

import (
	"strings"
	"testing"
)

// What may be given to others is made of what was understood, so that nothing
// stands in it by oversight.
func TestRedact(t *testing.T) {
	dir, want := unpack(t, `-- gateway.toml --
name = "a" # the old password was hunter2
[broker]
passwords = "passwd"
[bridge.far]
url = "tls://example.com"
password = """
hunter2"""
pasword = 'hunter3'
proxy = "http://me:hunter/4@proxy:3128"
key = """-----BEGIN PRIVATE KEY-----
hunter5"""
[bridge.near]
password = "${cred:near}"
token = "${env:hunter}"
api_key = 6
-- devices.d/broken.toml --
[device.x
password = "hunter7"
-- profiles/own/meter.toml --
points.x = { input = 1 }
-- want --
== gateway.toml
    1  name = "a"
    3  broker.passwords = "passwd"
    5  bridge.far.url = "tls://example.com"
    6  bridge.far.password = •••
    8  bridge.far.pasword = •••
    9  bridge.far.proxy = "http://me:•••@proxy:3128"
   10  bridge.far.key = •••
   13  bridge.near.password = "${cred:near}"
   14  bridge.near.token = "${env:hunter}"
   15  bridge.near.api_key = 6
== profiles/own/meter.toml
    1  points.x.input = 1
`)
	var b strings.Builder
	for _, f := range Redact(dir, testOptions(nil)) {
		b.WriteString("== " + f.Name + "\n" + f.Text)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
