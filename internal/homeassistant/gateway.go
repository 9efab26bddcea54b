package homeassistant

// gateway announces the gateway itself: its figures are in NAME/_health, which
// it publishes each minute, and whether it is there in NAME/_status.
func (d *discoverer) gateway() Announcement {
	object := id(d.node)
	here := []Availability{status(d.Plant.Gateway + "/_status")}
	a := Announcement{Topic: d.topic(object), Payload: Config{
		Device:     Device{Identifiers: []string{object}, Name: d.Plant.Gateway, Manufacturer: "gateway", Model: "Edge gateway", SWVersion: d.Version},
		Origin:     d.origin,
		Components: map[string]*Component{},
	}}
	add := func(key, name, expression string, c Component) {
		c.Name, c.Category = name, "diagnostic"
		if c.StateTopic == "" {
			c.StateTopic, c.Availability, c.ExpireAfter = d.Plant.Gateway+"/_health", here, 300
		}
		if c.PayloadOn == "" && c.Platform == "binary_sensor" {
			c.PayloadOn, c.PayloadOff = "True", "False"
		}
		c.ValueTemplate = "{{ " + expression + " }}"
		c.UniqueID = object + "." + key
		c.EntityID = c.Platform + "." + slug(d.node+" "+name)
		a.Payload.Components[key] = &c
	}
	add("connected", "Connected", "value_json.status", Component{Platform: "binary_sensor", DeviceClass: "connectivity",
		StateTopic: d.Plant.Gateway + "/_status", PayloadOn: "online", PayloadOff: "offline"})
	add("started", "Started", "value_json.started", Component{Platform: "sensor", DeviceClass: "timestamp"})
	add("clock", "Clock", "value_json.clock", Component{Platform: "sensor", DeviceClass: "enum", Options: []string{"exact", "bounded", "unsynced"}})
	add("devices_offline", "Devices offline", "value_json.devices.offline", Component{Platform: "sensor", StateClass: measurement})
	add("buffer", "Buffer", "value_json.buffer", Component{Platform: "sensor", StateClass: measurement, DeviceClass: "data_size", Unit: "B"})
	for _, bus := range d.Buses {
		at := "value_json.buses[" + quoted(bus) + "]"
		add(id("bus", bus, "port"), "Bus "+bus+" port", at+".port_down", Component{Platform: "binary_sensor", DeviceClass: "problem"})
		add(id("bus", bus, "busy"), "Bus "+bus+" busy", at+".busy", Component{Platform: "sensor", Unit: "%", StateClass: measurement})
		add(id("bus", bus, "errors"), "Bus "+bus+" errors", at+".errors", Component{Platform: "sensor", Unit: "%", StateClass: measurement})
	}
	for _, bridge := range d.Bridges {
		at := "value_json.bridges[" + quoted(bridge) + "]"
		add(id("bridge", bridge), "Bridge "+bridge, at+".up", Component{Platform: "binary_sensor", DeviceClass: "connectivity"})
		add(id("bridge", bridge, "waiting"), "Bridge "+bridge+" waiting", at+".waiting", Component{Platform: "sensor", StateClass: measurement})
	}
	return a
}
