package org.apache.tomcat.jdbc.pool;

/** A pool with the methods that tomcat-jdbc's has. */
public class ConnectionPool {

    private int size;
    private int purges;

    public ConnectionPool(int size) {
        this.size = size;
    }

    public void purge() {
        size = 0;
        purges++;
    }

    public int purges() {
        return purges;
    }

    public int getSize() {
        return size;
    }
}
