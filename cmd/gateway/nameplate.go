package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// identitySource asks a unit in place of its registers who it is, with
// function 43/14: `gateway read rs485/7 identity`.
const identitySource = "identity"

// objectNames are what the standard calls the objects of an identity
// (V1.1b3, 6.21).
var objectNames = map[byte]string{
	modbus.VendorName: "VendorName", modbus.ProductCode: "ProductCode", modbus.Revision: "MajorMinorRevision",
	modbus.VendorURL: "VendorUrl", modbus.ProductName: "ProductName", modbus.ModelName: "ModelName",
	modbus.UserApplication: "UserApplicationName",
}

// identify asks a unit who it is. Most devices know no such function, which is
// an answer, too.
func (p *plant) identify(ctx context.Context, req readRequest) ([]pointResult, error) {
	dev, err := p.rawUnit(req)
	if err != nil {
		return nil, err
	}
	bus, err := p.bus(dev)
	if err != nil {
		return nil, err
	}
	line, ok := bus.line.(*modbus.Line)
	if !ok {
		return nil, usageError("bus %s is no Modbus bus: its devices have no identity to ask for", dev.Bus)
	}
	var asked *modbus.Identification
	q := &lateQuery{name: "identity of " + dev.ID, plan: func() (list []devices.Query, err error) {
		asked, err = line.Identify(dev.Device)
		return []devices.Query{asked}, err
	}}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	b := devices.NewBatch(dev.Device)
	defer b.Release()
	result := pointResult{Device: dev.ID, Source: "function 43/14", Value: []byte("null"), Time: p.clock().Wall(int64(devices.Now()))}
	if err := bus.do(ctx, q, b); err != nil {
		if asked == nil {
			return nil, err
		}
		result.Point, result.Error, result.Detail = identitySource, devices.Cause(err), err.Error()
		return []pointResult{result}, nil
	}
	var results []pointResult
	for _, id := range slices.Sorted(maps.Keys(asked.Objects)) {
		result.Point = objectNames[id]
		if result.Point == "" {
			result.Point = fmt.Sprintf("object %d", id)
		}
		result.Value = mapping.StringValue(asked.Objects[id]).AppendJSON(nil)
		results = append(results, result)
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("unit %s answered with an empty identity", dev.ID)
	}
	return results, nil
}

// identity returns who a unit says that it is, in one line; "" if it does not
// say.
func (a *asker) identity(ctx context.Context, unit byte) string {
	results, err := a.read(ctx, readRequest{Target: fmt.Sprintf("%s/%d", a.bus, unit), Source: identitySource, Timeout: a.timeout})
	if err != nil {
		return ""
	}
	var words []string
	for _, r := range results {
		if r.Error == "" {
			words = append(words, strings.Trim(string(r.Value), `"`))
		}
	}
	return strings.Join(words, " ")
}
