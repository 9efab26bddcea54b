package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"edgegateway/devices/capture"
)

// The messages that docs/capture.md explains are those of the program, and what it
// shows of a capture is what --decode makes of it.
func TestCapturePageTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/capture.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	source := goSource(t)
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1)
	for _, row := range rows {
		if !strings.Contains(source, row[1]) {
			t.Errorf("the page explains %q, which the gateway does not say", row[1])
		}
	}
	if len(rows) < 6 {
		t.Errorf("%d messages are explained", len(rows))
	}

	_, shown, _ := strings.Cut(text, "bus rs485 at")
	shown, _, _ = strings.Cut(shown, "```")
	const recorded = `gateway-capture 1
bus rs485
address /dev/ttyUSB0
protocol modbus
framing rtu
line 9600 8N1
start 2026-11-20T23:06:00.123456Z
clock exact
gateway 1.2.3

0.425321 > 01 03 00 0A 00 02 E4 09
0.440159 < 01 03 04 00
0.450395 < 37 00 00 4B FD
`
	c, err := capture.Read(strings.NewReader(recorded))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	decodeCapture(&out, c)
	if want := "bus rs485 at" + shown; !strings.HasPrefix(out.String(), want) {
		t.Errorf("the page shows\n%s--decode prints\n%s", want, out.String())
	}
	_, remark, _ := strings.Cut(text, "# 23:07")
	event, _, _ := strings.Cut(remark[strings.Index(remark, "\n")+1:], "```")
	if _, err := capture.Read(strings.NewReader(recorded + "# 23:07" + remark[:strings.Index(remark, "\n")+1] + event)); err != nil {
		t.Errorf("the remark: %v", err)
	}
}
